"""What is installed: the sdist, the wheel made of it, its commands, and its types, in a fresh
environment."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import minibert
from tests.documents import ROOT
from tools.lowest import lowest

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def call(*command: str | Path, folder: Path, status: int = 0) -> str:
    """The output of a program, which sees no other minibert than the installed one."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Built:
    """A source tree as git has it, and what is built from it."""

    files: set[str]
    sdist: set[str]
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout, which says what the source files are")
    folder = tmp_path_factory.mktemp("built")
    list_files = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    files = {name for name in call(*list_files, folder=ROOT).splitlines() if (ROOT / name).exists()}
    for name in files:
        copy = folder / "tree" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta; print(build_meta.build_{}('..'))"
    call(sys.executable, "-c", build.format("sdist"), folder=folder / "tree")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    sdist = {str(f.relative_to(unpacked)) for f in unpacked.rglob("*") if f.is_file()}
    call(sys.executable, "-c", build.format("wheel"), folder=unpacked)
    (wheel,) = unpacked.parent.glob("*.whl")
    return Built(files, sdist, wheel)


@pytest.fixture(scope="module")
def programs(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment where the wheel is installed. What it needs is seen
    from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    call(*pip, "--quiet", built.wheel, folder=folder)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def test_the_sdist_has_every_source_file(built: Built) -> None:
    """Tests and tools too, so that they run from there."""
    assert built.files - built.sdist == {".gitignore"}


def test_the_wheel_has_the_packages_and_their_data(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as content:
        names = set(content.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = content.read(metadata).decode()
    assert f"\nName: {PROJECT['name']}\nVersion: {minibert.__version__}\n" in said
    ours = {name for name in names if ".dist-info/" not in name}
    assert ours == {name for name in built.files if name.startswith(("minibert/", "train/"))}


def test_a_train_py_of_the_users_own_is_neither_run_nor_in_the_way(
    programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("raise SystemExit('this is the file of the user')")
    python = programs / "python"
    call(python, "-m", "train.run", "--help", folder=tmp_path, status=1)  # Python runs that one
    out = call(programs / "minibert-train", "--help", folder=tmp_path)
    assert out.startswith("usage: minibert-train [--data")
    out = call(python, "-P", "-m", "train.predict", "--help", folder=tmp_path)
    assert out.startswith("usage: python -m train.predict")


def test_the_command_says_its_version(programs: Path, tmp_path: Path) -> None:
    out = call(programs / "minibert", "--version", folder=tmp_path)
    assert out.startswith(f"minibert {minibert.__version__}\n")


PROGRAM = """
from minibert import SentenceEncoder
from train.run import main

encoder = SentenceEncoder.from_pretrained("minilm")
reveal_type(encoder.encode)
reveal_type(main)
encoder.encode(["a"], no_such_keyword=1)
"""
LIBRARIES = "[mypy-torch.*,numpy.*,tqdm.*,safetensors.*,tokenizers.*,huggingface_hub.*]"


def test_a_users_program_sees_our_types(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\n{LIBRARIES}\nfollow_imports = skip\nignore_missing_imports = True\n"
    )
    mypy = (sys.executable, "-m", "mypy", "--python-executable", programs / "python")
    out = call(*mypy, "program.py", folder=tmp_path, status=1)
    notes, errors = (re.findall(rf": {kind}: (.*)", out) for kind in ("note", "error"))
    assert re.match(r'Revealed type is "Overload\(def .*texts', notes[0])
    assert re.match(
        'Revealed type is "def .*arguments.* -> int"', notes[1].replace("builtins.", "")
    )
    assert set(re.findall(r":(\d+): error: ", out)) == {"8"}  # the call that is wrong
    assert 'Unexpected keyword argument "no_such_keyword"' in errors[0]


def test_nobody_is_told_to_install_anothers_package(built: Built) -> None:
    """The distribution "minibert" on the index is another project."""
    for name in built.files:
        if name.endswith((".py", ".md", ".toml")):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert not re.search(r"pip install\b.*\bminibert\b(?!-torch)", text), name


def test_every_package_has_a_lowest_version() -> None:
    """Which tools/lowest.py installs."""
    for pinned in lowest(PROJECT["dependencies"]):
        assert re.fullmatch(r"[a-z-]+==\d+(\.\d+)+", pinned), pinned
