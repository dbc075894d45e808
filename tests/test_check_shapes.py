"""The checker of shape comments: it passes the real code, and catches each way a comment can be
wrong."""

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tools import check_shapes
from tools.check_shapes import LENGTHS, SIZES, find_comments, main, python_files, trace

pytestmark = pytest.mark.usefixtures("one_thread")

B, S, N, D, H, W, F = (SIZES[letter] for letter in "BSNDHWF")

# In the manner of layout.py and model.py, with every kind of statement that may carry a comment.
GOOD = """\
import torch
from torch import Tensor


class Attention:
    def __init__(self, mask: Tensor) -> None:
        self.mask = mask.bool()  # (B, S)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (3, -1))  # (*, D) -> (*, H, W)

    def attend(self, query: Tensor, key: Tensor) -> Tensor:
        query, key = (x.transpose(1, 2) for x in (query, key))  # (B, S, H, W) -> (B, H, S, W)
        scores = query @ key.transpose(-2, -1)  # (B, H, S, W), (B, H, S, W) -> (B, H, S, S)
        scores = scores.masked_fill(
            ~self.mask[:, None, None, :],
            0,
        )  # (B, H, S, S), (B, S) -> (B, H, S, S)
        scores += scores.new_zeros(())  # (B, H, S, S)
        return scores


def views(x: Tensor, runs: list[tuple[int, int]]):
    start = 0
    for length, count in runs:
        yield x[start : start + length * count].unflatten(0, (count, length))  # (N, D) -> (G, L, D)
        start += length * count


def rows(x: Tensor, runs: list[tuple[int, int]]) -> Tensor:
    parts = []
    for part in views(x, runs):
        parts.append(part.flatten(0, 1))  # (G, L, D) -> (G * L, D)
    return torch.cat(parts)  # (N, D): as it was


def total(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.sum()  # (*, D) -> ()


def halves(x: Tensor, optional: Tensor | None = None) -> tuple[Tensor, Tensor]:
    zeros = None if optional is None else optional * 0  # (*, D)
    wide: Tensor = torch.cat([y for y in (x, x)], -1)  # (*, D) -> (*, 2 * D)
    first, second = wide[..., :21], wide.sum(-1)  # (*, 2 * D) -> (*, D), (*)
    try:
        first = first.view(-1, 1000)  # (*, D) -> (1, 1000)
    except RuntimeError:
        first = first * 1  # (*, D) or (B, D) where S is gone
    return first, second  # (*, D), (*)


# (B, S): a line of its own says nothing that is held against anything.
"""


def row_of(text: str) -> int:
    return GOOD[: GOOD.index(text)].count("\n") + 1


def use(module: ModuleType) -> None:
    """Run everything in GOOD, in both layouts."""
    padded, packed = torch.randn(B, S, D), torch.randn(N, D)
    attention = module.Attention(torch.ones(B, S))
    attention.attend(attention.split(padded), attention.split(padded))
    module.rows(packed, [(length, len(list(run))) for length, run in itertools.groupby(LENGTHS)])
    for x in (padded, packed):
        module.total(x)
        module.halves(x)
        module.halves(x, x)


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable]:
    """Write a module of this source, check it while `run` uses it, and return the exit status and
    the lines printed."""
    numbers = itertools.count()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def check(source: str, run: Callable[[ModuleType], None] = use) -> tuple[int, list[str]]:
        name = f"commented_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        status = main([name], lambda: run(importlib.import_module(name)))
        return status, capsys.readouterr().out.replace(name, "module").splitlines()

    yield check
    for name in [name for name in sys.modules if name.startswith("commented_")]:
        del sys.modules[name]


def test_the_real_tree_holds(capsys):
    assert main([]) == 0
    assert "hold, 0 wrong, 0 never run" in capsys.readouterr().out


def swap(shape: list[str]) -> list[str]:
    return [*shape[:-2], *reversed(shape[-2:])] if "*" not in shape[-2:] else shape


def star(shape: list[str]) -> list[str]:
    return ["*", *shape[1:]] if shape[:1] == ["B"] and len(shape) == 2 else shape


def other_letter(shape: list[str]) -> list[str]:
    return [*shape[:-1], "V"] if shape != ["*"] else ["V"]


def one_more(shape: list[str]) -> list[str]:
    return [*shape, "1"]


@pytest.mark.parametrize("change", [swap, star, other_letter, one_more])
@pytest.mark.parametrize("side", ["inputs", "results"])
def test_every_comment_of_the_real_tree_is_caught_when_it_is_changed(change, side):
    comments = [comment for path in python_files("minibert") for comment in find_comments(path)]
    changed = []
    for comment in comments:
        before = (comment.inputs, comment.results)
        if side == "inputs":
            comment.inputs = [change(shape) for shape in comment.inputs]
        else:
            comment.results = [[change(shape) for shape in shapes] for shapes in comment.results]
        if before != (comment.inputs, comment.results):  # `(B, H, S, S)`, say, is the same swapped
            changed.append(comment)
    trace(comments, check_shapes.exercise)
    assert changed
    assert [c.text for c in comments if bool(c.problem) != (c in changed)] == []


def test_every_comment_of_the_training_program_holds(capsys):
    assert main(["train"], check_shapes.exercise_train) == 0
    assert "0 wrong, 0 never run" in capsys.readouterr().out


def test_sizes_cannot_be_mistaken_for_each_other():
    assert len(set(SIZES.values())) == len(SIZES)
    assert not {1, 2} & set(SIZES.values())
    products = [a * b for a, b in itertools.combinations(SIZES.values(), 2)]
    assert [size for size in SIZES.values() if size in products] == [D]
    assert D == H * W
    assert (len(LENGTHS), sum(LENGTHS)) == (B, N)
    assert max(LENGTHS) < S


def test_every_kind_of_statement_is_checked(check):
    status, lines = check(GOOD)
    raises = "(*, D) -> (1, 1000)"  # the one statement that never comes to its end
    assert lines == [
        f"module.py:{row_of(raises)}: # {raises}  "
        "never run: let exercise() in tools/check_shapes.py run it",
        f"{GOOD.count('  # (') - 1} shape comments in 1 files hold, 0 wrong, 1 never run",
    ]
    assert status == 1


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("(B, S)\n", "(S, B)\n", "(B, S) -> (B, S)"),
        ("(*, D) -> (*, H, W)", "(*, D) -> (*, W, H)", "(B, S, D) -> (B, S, H, W)"),
        ("(*, D) -> (*, H, W)", "(*, F) -> (*, H, W)", "(B, S, D) -> (B, S, H, W)"),
        (
            "(B, S, H, W) -> (B, H, S, W)",
            "(B, H, S, W) -> (B, H, S, W)",
            "(B, S, H, W) -> (B, H, S, W), (B, H, S, W)",
        ),
        (
            "(B, S) -> (B, H, S, S)",
            "(B, H) -> (B, H, S, S)",
            "(B, H, S, S), (B, S) -> (B, H, S, S)",
        ),
        ("(())  # (B, H, S, S)", "(())  # (B, H, S)", "(B, H, S, S) -> (B, H, S, S)"),
        ("(N, D) -> (G, L, D)", "(N, D) -> (L, D)", "(N, D) -> (2, 9, D)"),
        ("(G, L, D) -> (G * L, D)", "(G, L, D) -> (G * G, D)", "(2, 9, D) -> (18, D)"),
        ("(G, L, D) -> (G * L, D)", "(P * Q, D)", "(2, 9, D) -> (18, D)"),
        ("(G, L, D) -> (G * L, D)", "(G, L, D) -> (N, D)", "(2, 9, D) -> (18, D)"),
        ("(G, L, D) -> (G * L, D)", "(G, G, D) -> (G * L, D)", "(2, 9, D) -> (18, D)"),
        ("(N, D): as", "(*, F): as", "(18, D), (8, D), (6, D) -> (N, D)"),
        ("(*, D) -> ()", "(*, D) -> (1)", "(B, S, D) -> ()"),
        ("(*, D) -> (*, 2 * D)", "(*, D) -> (*, 3 * D)", "(B, S, D) -> (B, S, 42)"),
        ("-> (*, D), (*)\n", "-> (*), (*, D)\n", "(B, S, 42) -> (B, S, D), (B, S)"),
        ("-> (*, D), (*)\n", "-> (*, D)\n", "(B, S, 42) -> (B, S, D), (B, S)"),
        ("(*, D) or (B, D)", "(*, F) or (B, D)", "(B, S, D) -> (B, S, D)"),
    ],
)
def test_a_wrong_comment_is_caught(check, right, wrong, found):
    assert GOOD.count(right) == 1
    status, lines = check(GOOD.replace(right, wrong))
    assert status == 1
    assert lines[0].startswith(f"module.py:{row_of(right)}: # ")
    assert lines[0].endswith(f"  wrong: {found}")
    assert lines[-1].endswith("1 wrong, 1 never run")


def run_f(module: ModuleType) -> None:
    module.f(torch.randn(N, D))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("return x  # (n, d)", "cannot be read as shapes"),
        ("return x  # (N,D)", "cannot be read as shapes"),
        ("return x  # (N, D) -> D", "cannot be read as shapes"),
        ("return x  # (N, D) -> (N, D) -> (N, D)", "cannot be read as shapes"),
        ("return x  # (see above)", "cannot be read as shapes"),
        ("return x  #(N, D)", "cannot be read as shapes"),
        ("x.relu()  # (N, D)", "belongs to no assignment"),
        ("x = torch.cat(\n        [x],  # (N, D)\n    )", "belongs to no assignment"),
        ("for x in [x]:  # (N, D)\n        pass", "belongs to no assignment"),
        ("x = x.shape  # (N, D)", "wrong: (N, D) -> no tensor, no tensor"),
        ("x = 1  # (N, D)", "wrong:  -> no tensor"),
        ("x = None  # (N, D)", "never run"),
        ("if x is None:\n        x = x.relu()  # (N, D)", "never run"),
    ],
)
def test_what_cannot_be_checked_is_an_error(check, line, problem):
    status, lines = check(f"import torch\n\n\ndef f(x):\n    {line}\n", run_f)
    row = 5 + line[: line.index("#")].count("\n")
    assert status == 1
    assert lines[0].startswith(f"module.py:{row}: ")
    assert problem in lines[0]


@pytest.mark.parametrize(
    "body",
    [
        'return x if "# (B, S)" else 0',
        "# (B, S)\n    return x",
        "return x  # as it came: (B, S)",
        '"""Text\n    # (B, S)\n    """\n    return x',
    ],
)
def test_what_is_no_shape_comment_is_left_alone(check, body):
    status, lines = check(f"def f(x):\n    {body}\n", run_f)
    assert (status, lines) == (0, ["0 shape comments in 0 files hold, 0 wrong, 0 never run"])


def test_the_tracer_before_is_put_back(check):
    before = sys.gettrace()
    with pytest.raises(AttributeError):
        check("", run_f)
    assert sys.gettrace() is before


def test_an_unknown_package_is_named():
    with pytest.raises(ModuleNotFoundError, match="no package 'no_such_package'"):
        main(["no_such_package"])
