"""What is behind the metrics: calibration, confusions and mistakes.

Evidence: cases worked by hand, and scikit-learn's calibration_curve and confusion_matrix on random
predictions.
"""

import random

import pytest

from minibert.tokenizer import Tokens
from train.analysis import Confusion, analyse, calibration, confusion_matrix
from train.batches import Item
from train.data.examples import Example
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.records import Prediction
from train.tasks.regression import SentenceRegression


def item(number: int, **labels: object) -> Item:
    return Item(
        Example(f"text {number}", labels, f"line {number}"), (Tokens([], [], [], 0),), number
    )


def test_calibration_by_hand() -> None:
    """Four bins. (0, 0.25] has 0.25 and 0.2, of which one is right; (0.5, 0.75] has 0.6, right;
    (0.75, 1] has 0.9, 0.8 and 1, of which two are right. The error is the mean over six
    predictions of |1/2 - 0.225|, |1 - 0.6| and |2/3 - 0.9|."""
    found = calibration(
        [(0.25, True), (0.9, True), (0.2, False), (0.6, True), (0.8, False), (1.0, True)], 4
    )
    assert [(b.low, b.high, b.count) for b in found.bins] == [
        (0, 0.25, 2),
        (0.5, 0.75, 1),
        (0.75, 1, 3),
    ]
    assert [b.accuracy for b in found.bins] == pytest.approx([1 / 2, 1, 2 / 3])
    assert [b.probability for b in found.bins] == pytest.approx([0.225, 0.6, 0.9])
    assert found.expected_error == pytest.approx((2 * 0.275 + 0.4 + 3 * (0.9 - 2 / 3)) / 6)


def test_calibration_of_what_is_sure_and_right() -> None:
    assert calibration([(1.0, True)] * 3).expected_error == 0
    assert calibration([(1.0, False)] * 3).expected_error == 1
    assert calibration([(0.0, False)]).bins[0].low == 0


@pytest.mark.parametrize("seed", range(3))
def test_bins_are_those_of_scikit_learn(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.calibration")
    dice = random.Random(seed)
    probabilities = [dice.choice([dice.random(), dice.randint(0, 15) / 15]) for _ in range(300)]
    right = [dice.random() < p for p in probabilities]
    found = calibration(list(zip(probabilities, right, strict=True)))
    accuracies, means = sklearn.calibration_curve(right, probabilities, n_bins=15)
    assert [b.accuracy for b in found.bins] == pytest.approx(accuracies)
    assert [b.probability for b in found.bins] == pytest.approx(means)
    assert sum(b.count for b in found.bins) == 300


@pytest.mark.parametrize("seed", range(3))
def test_confusions_are_those_of_scikit_learn(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    dice = random.Random(seed)
    pairs = [(dice.choice("abcd"), dice.choice("bcde")) for _ in range(60)]
    found = confusion_matrix(pairs, order=("d", "b", "never", "a"))
    assert found.labels == ("d", "b", "a", "c", "e")  # then what the order lacks, by name
    gold, predicted = zip(*pairs, strict=True)
    theirs = sklearn.confusion_matrix(gold, predicted, labels=found.labels)
    assert [list(row) for row in found.counts] == theirs.tolist()


def test_the_commonest_mistakes_come_first() -> None:
    confusion = Confusion(("a", "b", "c"), ((5, 1, 0), (3, 9, 1), (0, 0, 2)))
    assert confusion.commonest() == [("b", "a", 3), ("a", "b", 1), ("b", "c", 1)]


def test_the_worst_mistakes_of_each_task() -> None:
    """Of classes, those whose right label was thought the least likely; of numbers, those farthest
    off. What is right is no mistake, and an item without a label none either."""
    tasks: list[Task] = [SentenceClassification("mood", ("a", "b")), SentenceRegression("stars")]
    items = [
        item(0, mood="a", stars=1.0),
        item(1, mood="a"),
        item(2, mood="b"),
        item(3, mood="b", stars=5.0),
        item(4),
    ]
    stars = [Prediction(1.0), Prediction(9.0), Prediction(9.0), Prediction(4.5), Prediction(9.0)]
    moods = [
        Prediction("b", 0.6, {"a": 0.4, "b": 0.6}),
        Prediction("b", 0.9, {"a": 0.1, "b": 0.9}),
        Prediction("b", 0.9, {"a": 0.1, "b": 0.9}),
        Prediction("a", 0.7, {"a": 0.7, "b": 0.3}),
        Prediction("a", 0.7, {"a": 0.7, "b": 0.3}),
    ]
    predictions = [{"mood": m, "stars": s} for m, s in zip(moods, stars, strict=True)]
    found = analyse(tasks, items, predictions)
    assert [one.number for one, _ in found["mood"].worst] == [1, 3, 0]
    assert [one.number for one, _ in found["stars"].worst] == [3]
    assert found["mood"].confusion == Confusion(("a", "b"), ((0, 2), (1, 1)))
    calibrated = found["mood"].calibration
    assert calibrated is not None
    assert sum(b.count for b in calibrated.bins) == 4
    assert found["stars"].confusion is None
    assert found["stars"].calibration is None
    assert found["stars"].per_label == {}
    assert analyse(tasks, items[4:], predictions[4:]) == {}


def test_only_ten_mistakes_are_kept() -> None:
    task = SentenceRegression("stars")
    items = [item(i, stars=float(i)) for i in range(1, 30)]
    found = analyse([task], items, [{"stars": Prediction(0.0)}] * len(items))["stars"]
    assert [one.number for one, _ in found.worst] == list(range(29, 19, -1))
