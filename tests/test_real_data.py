"""Files as people's tools really write them: each is read as what it means, or refused with a message
that says what to do.

Evidence: small files in the form of each tool, with exact expectations.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from tests.training import write_json_lines
from train.data.examples import DataSet
from train.load import load_data
from train.settings import Settings


def load(file: Path, said: list[str] | None = None, **settings: Any) -> DataSet:
    announce = said.append if said is not None else lambda _: None
    (data,) = load_data(Settings(data=(str(file),), **settings), announce)
    return data


def labels(data: DataSet, name: str) -> dict[str, Any]:
    """Each text's label, of all splits."""
    return {e.text: e.labels[name] for split in data.splits.values() for e in split}


def write(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def test_booleans_are_classes_and_several_of_them_labels(tmp_path: Path) -> None:
    records = [{"text": f"t {i}", "toxic": i % 2 == 0, "threat": i % 3 == 0} for i in range(24)]
    file = write_json_lines(tmp_path / "a.jsonl", records)
    assert set(labels(load(file, tasks=("toxic",)), "toxic").values()) == {"true", "false"}
    values = labels(load(file, multilabel=("x=toxic,threat",)), "x")
    assert [values[f"t {i}"] for i in range(4)] == [
        {"toxic", "threat"},
        set(),
        {"toxic"},
        {"threat"},
    ]
    table = "".join(
        f"t {i},{i % 2 == 0},{i % 3 == 0}\n" for i in range(24)
    )  # as pandas writes them
    file = write(tmp_path / "a.csv", "text,toxic,threat\n" + table)
    assert labels(load(file, multilabel=("x=toxic,threat",)), "x") == values


@pytest.mark.parametrize("kind", [bool, float])
def test_lists_of_ones_may_be_true_and_false_or_have_a_point(kind: Any, tmp_path: Path) -> None:
    records = [{"text": f"t {i}", "x": [kind(i % 2 == 0), kind(i % 3 == 0)]} for i in range(24)]
    values = labels(load(write_json_lines(tmp_path / "a.jsonl", records)), "x")
    assert [values[f"t {i}"] for i in range(4)] == [{"0", "1"}, set(), {"0"}, {"1"}]


def test_a_label_of_several_without_an_example_is_told(tmp_path: Path) -> None:
    rows = "".join(f"t {i},{i % 2},0,{int(i % 4 == 0)}\n" for i in range(24))
    said: list[str] = []
    file = write(tmp_path / "a.csv", "text,toxic,severe,threat\n" + rows)
    load(file, said, multilabel=("x=toxic,severe,threat",))
    told = "no training example of a has {}, which therefore cannot be learnt"
    assert said[0] == "x: " + told.format("severe")
    lists = [{"text": f"t {i}", "y": [i % 2, int(i % 3 == 0), 0]} for i in range(24)]
    said.clear()
    load(write_json_lines(tmp_path / "a.jsonl", lists), said)
    assert said[0] == "y: " + told.format("2")
