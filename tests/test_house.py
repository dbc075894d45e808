"""The house: which way imports point, how long files are, and how far a line of data travels.

Evidence: the imports are read from the source; the functions that a whole run passes are counted
by Python's own tracing.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.training import World, make_world
from train import run as run_module
from train.run import train

ROOT = Path(__file__).parents[1]
PACKAGES = ("minibert", "train")  # whose rules are held
ABOVE = {"minibert": ("train", "tools", "tests"), "train": ("tools", "tests"), "tools": ("tests",)}
# Packages that may be missing: they are asked for late. FSDP2 is missing in older versions of
# PyTorch, and takes half a second.
OPTIONAL = {
    "datasets",
    "fsspec",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "ray",
    "sentence_transformers",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
    "transformers",
}
MOST_LINES = 300
MOST_FUNCTIONS = 429  # of ours, from a labelled line to a saved run


def modules() -> dict[str, ast.Module]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(node: ast.AST) -> list[str]:
    """The modules that an import statement names; of `from a import b`, "a.b" where that is one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name the whole module"
        named = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else node.module or "" for name in named]
    return []


def imports_of(name: str) -> Iterator[str]:
    for node in ast.walk(MODULES[name]):
        yield from imported(node)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    """tools -> train -> minibert."""
    above = ABOVE[name.partition(".")[0]]
    assert not [found for found in imports_of(name) if found.partition(".")[0] in above]


def test_the_lesson_names_nothing_of_the_machine() -> None:
    """Of the library's files, only those that encode know the fast variants."""
    named = {
        name
        for name in MODULES
        if name.startswith("minibert") and any("minibert.fast" in i for i in imports_of(name))
    }
    encoding = {"minibert.encoder", "minibert.vectors"}
    assert {name for name in named if not name.startswith("minibert.fast")} == encoding
    for name in ("model", "layout", "heads"):
        text = (ROOT / "minibert" / f"{name}.py").read_text(encoding="utf-8")
        assert "minibert/fast" not in text
        assert "AVX" not in text


def test_there_are_no_circles() -> None:
    """Not by way of a third module either. A package's own file counts as a module."""
    left = {name: {i for i in imports_of(name) if i in MODULES} - {name} for name in MODULES}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, "each of these needs another of them"


@pytest.mark.parametrize("name", MODULES)
def test_no_import_stands_inside_a_function(name: str) -> None:
    """But of optional packages; and none under TYPE_CHECKING, where it would hide a circle."""
    functions = [node for node in ast.walk(MODULES[name]) if isinstance(node, ast.FunctionDef)]
    inside = [found for f in functions for node in ast.walk(f) for found in imported(node)]
    assert not [found for found in inside if not {found, found.partition(".")[0]} & OPTIONAL]
    assert "TYPE_CHECKING" not in {n.id for n in ast.walk(MODULES[name]) if isinstance(n, ast.Name)}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_too_long_to_read(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, file


def test_run_py_is_a_story_of_at_most_200_lines() -> None:
    assert len((ROOT / "train/run.py").read_text(encoding="utf-8").splitlines()) <= 200


# How far a line of data travels


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def functions_of(run: Any) -> set[tuple[str, str]]:
    """The functions of ours that `run` calls; comprehensions are part of the function around."""
    found: set[tuple[str, str]] = set()
    ours = tuple(f"{ROOT / package}/" for package in ("minibert", "train"))

    def note(frame: FrameType, event: str, value: object) -> None:
        code = frame.f_code
        is_part = code.co_name.startswith("<") and code.co_name != "<lambda>"
        if code.co_filename.startswith(ours) and not is_part:
            found.add((code.co_filename, code.co_qualname))

    before = sys.gettrace()
    sys.settrace(note)
    try:
        run()
    finally:
        sys.settrace(before)
    return found


def test_a_labelled_line_passes_few_functions_on_its_way_to_a_saved_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight sentences of CoNLL columns, one epoch, and all files that a run leaves, but for the
    page that people look at."""
    for name in ("draw_pictures", "write_report"):
        monkeypatch.setattr(run_module, name, lambda *_: None)
    lines = (world.sentences / "train.jsonl").read_text().splitlines()[:8]
    sentences = [
        "\n".join(f"{word} {tag}" for word, tag in zip(s["words"], s["slots"], strict=True))
        for s in map(json.loads, lines)
    ]
    (tmp_path / "train.conll").write_text("\n\n".join(sentences) + "\n")
    settings = world.settings(tmp_path / "train.conll", epochs=1)
    passed = functions_of(lambda: train(settings, tmp_path / "run"))
    assert (tmp_path / "run/metrics.json").exists()
    assert 50 < len(passed) <= MOST_FUNCTIONS, sorted(passed)
