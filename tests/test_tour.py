"""tools/tour.py: it runs from top to bottom, where each cell asserts what it says, and opens as a
notebook."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.documents import ROOT

TOUR = ROOT / "tools/tour.py"


@pytest.fixture
def with_gradients() -> Iterator[None]:
    """The tour switches them off and on."""
    yield
    torch.set_grad_enabled(True)


@pytest.mark.usefixtures("with_gradients")
def test_it_runs_from_top_to_bottom(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(TOUR))
    out = capsys.readouterr().out
    assert out.count("as the model's") == 13
    assert out.count("dev accuracy") == 6


def test_it_opens_as_a_notebook() -> None:
    """Each cell of prose is comments alone; each cell of code says or shows something."""
    text = TOUR.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # From ids to vectors\n")
    kinds = re.findall(r"^# %%(.*)$", text, flags=re.MULTILINE)
    cells = re.split(r"^# %%.*\n", text, flags=re.MULTILINE)[1:]
    assert len(cells) == len(kinds) > 15
    assert set(kinds) == {"", " [markdown]"}
    for kind, cell in zip(kinds, cells, strict=True):
        lines = [line for line in cell.splitlines() if line]
        if kind:
            assert all(line.startswith("#") for line in lines), cell
        elif "import torch" not in cell:
            assert "print(" in cell, cell
            assert "assert" in cell, cell
