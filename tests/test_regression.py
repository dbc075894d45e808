"""Numbers: learnt in units of their spread, and read and written in their own unit.

Evidence: a run on scores times 100,000 is the run on the scores, but for the unit; the exported
layer is tested in tests/parity/test_heads.py.
"""

import json
import statistics
from pathlib import Path

import pytest
import torch

from tests.training import World, log_of, make_world, metrics_of, write_json_lines
from train.batches import Item
from train.data.examples import DataSet, Example
from train.run import train
from train.settings import Settings
from train.tasks import build_tasks, task_from
from train.tasks.records import Prediction
from train.tasks.regression import SentenceRegression


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def task_of(*scores: float) -> SentenceRegression:
    examples = [Example("a", {"price": score}, "line") for score in scores]
    (task,) = build_tasks([DataSet("x", {"train": examples})], Settings())
    assert isinstance(task, SentenceRegression)
    return task


def test_numbers_far_from_0_are_learnt_as_well_as_others(world: World, tmp_path: Path) -> None:
    """Prices of 90,000 to 600,000: losses, correlations and predictions are those of the scores
    that they were made from, in another unit."""
    for split in ("train", "dev", "test"):
        lines = (world.scores / f"{split}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        far = [record | {"score": 100_000 * record["score"] + 90_000.5} for record in records]
        write_json_lines(tmp_path / "far" / f"{split}.jsonl", far)
    train(world.settings(world.scores), tmp_path / "near-run")
    train(world.settings(tmp_path / "far"), tmp_path / "far-run")
    near, far_run = (metrics_of(tmp_path / name) for name in ("near-run", "far-run"))
    for split in ("dev", "test"):
        one, other = near[split]["score"], far_run[split]["score"]
        for name, factor in (
            ("spearman", 1),
            ("pearson", 1),
            ("loss", 1),
            ("root_mean_squared_error", 100_000),
            ("mean_absolute_error", 100_000),
        ):
            assert other[name] == pytest.approx(factor * one[name], rel=1e-3), name
    for one, other in zip(log_of(tmp_path / "near-run"), log_of(tmp_path / "far-run"), strict=True):
        if "norm" in one:
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    predicted = [
        [json.loads(line)["score"]["predicted"] for line in file.read_text().splitlines()]
        for file in (tmp_path / run / "predictions.jsonl" for run in ("near-run", "far-run"))
    ]
    for small, large in zip(*predicted, strict=True):
        assert large == pytest.approx(100_000 * small + 90_000.5, rel=1e-3)


def test_targets_have_mean_0_and_deviation_1() -> None:
    scores = (90_000.5, 400_000.5, 150_000.0, 90_000.5)
    task = task_of(*scores)
    items = [Item(Example("a", {"price": s}, ""), (), 0) for s in scores]
    targets = [target for item in items for target in task.targets(item)]
    assert statistics.fmean(targets) == pytest.approx(0, abs=1e-12)
    assert statistics.pstdev(targets) == pytest.approx(1)
    for item, target in zip(items, targets, strict=True):
        decoded = task.decode(torch.tensor([target], dtype=torch.float64), item)
        assert decoded.label == pytest.approx(item.example.labels["price"])
    assert task.summary() == "price (regression, 90000.5 to 400000.5)"
    assert task_from(json.loads(json.dumps(task.describe()))).describe() == task.describe()


@pytest.mark.parametrize("score", [0.1, 3.0, -1e9])
def test_numbers_that_are_all_the_same(score: float) -> None:
    task = task_of(score, score, score)
    item = Item(Example("a", {"price": score}, ""), (), 0)
    assert task.targets(item) == [0]
    assert task.decode(torch.tensor([0.0]), item).label == score


def test_memorised_is_a_tenth_of_the_deviation() -> None:
    task = task_of(0.0, 200_000.0)  # whose deviation is 100,000
    assert task.is_right(50_000.0, 59_999.0)
    assert not task.is_right(50_000.0, 60_001.0)
    assert task.error(50_000.0, Prediction(60_001.0)) == 10_001


def test_a_run_of_an_earlier_version_learnt_the_numbers_themselves() -> None:
    """Its tasks.json says nothing of a scale or of bounds."""
    old = {"kind": "regression", "name": "price", "labels": [], "pooling": "cls"}
    task = task_from(old)
    assert isinstance(task, SentenceRegression)
    item = Item(Example("a", {}, ""), (), 0)
    assert task.decode(torch.tensor([2.5]), item).label == 2.5
    assert task.summary() == "price (regression)"
    assert task_from({**old, "kind": "similarity"}).describe()["scale"] == 1
