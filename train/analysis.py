"""What is behind a task's metrics: figures for each label, confusions, calibration, mistakes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from train.batches import Item
from train.tasks.base import Task
from train.tasks.records import Prediction

NUM_BINS = 15
MOST_CLASSES = 1000  # of a confusion matrix
NUM_WORST = 10


@dataclass(frozen=True)
class Confusion:
    """How often each class was predicted for each: counts[i][j] is how often labels[i] was right
    and labels[j] predicted."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def commonest(self) -> list[tuple[str, str, int]]:
        """The mistakes as (right label, predicted label, count), the commonest first."""
        found = [
            (gold, predicted, count)
            for gold, row in zip(self.labels, self.counts, strict=True)
            for predicted, count in zip(self.labels, row, strict=True)
            if count and gold != predicted
        ]
        return sorted(found, key=lambda mistake: -mistake[2])


@dataclass(frozen=True)
class Bin:
    """The predictions whose probability is above `low` and at most `high`."""

    low: float
    high: float
    count: int
    probability: float  # their mean
    accuracy: float  # the share of them that is right


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be believed.

    expected_error: the mean of |accuracy - probability| over the bins, each by its share of the
    predictions. bins: those that have predictions.
    """

    expected_error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Analysis:
    """What one task got right and wrong. None or empty where its kind has no such thing."""

    per_label: Mapping[str, Mapping[str, float]]
    confusion: Confusion | None
    calibration: Calibration | None
    worst: Sequence[tuple[Item, Prediction]]  # the mistakes with the highest error, in order

    def as_record(self, task: Task) -> dict[str, Any]:
        """The analysis as JSON holds it."""
        record: dict[str, Any] = {}
        if self.per_label:
            record["per_label"] = self.per_label
        if self.confusion is not None:
            record["confusion"] = asdict(self.confusion)
        if self.calibration is not None:
            record["calibration"] = asdict(self.calibration)
        record["worst"] = [
            example_fields(item) | task.beside_gold(item.example.labels[task.name], prediction)
            for item, prediction in self.worst
        ]
        return record


def analyse(
    tasks: Sequence[Task], items: Sequence[Item], predictions: Sequence[Mapping[str, Prediction]]
) -> dict[str, Analysis]:
    """The analysis of each task that some of the items have a label of, by its name."""
    result = {}
    for task in tasks:
        pairs = [
            (item, of_item[task.name])
            for item, of_item in zip(items, predictions, strict=True)
            if task.name in item.example.labels
        ]
        if not pairs:
            continue
        own_items, own = zip(*pairs, strict=True)
        errors = [task.error(item.example.labels[task.name], found) for item, found in pairs]
        order = sorted((i for i, e in enumerate(errors) if e > 0), key=lambda i: -errors[i])
        confusions = task.confusions(own_items, own)
        confidences = task.confidences(own_items, own)
        result[task.name] = Analysis(
            task.per_label(own_items, own),
            confusion_matrix(confusions, task.labels),
            calibration(confidences) if confidences else None,
            [pairs[i] for i in order[:NUM_WORST]],
        )
    return result


def confusion_matrix(
    pairs: Sequence[tuple[str, str]], order: Sequence[str] = ()
) -> Confusion | None:
    """Pairs of the right class and the predicted one, counted; None if there are none, or so many
    classes that nearly all of the matrix is 0.

    order: of the classes; others follow by name, and those that do not occur are left out.
    """
    occurring = {label for pair in pairs for label in pair}
    if not 0 < len(occurring) <= MOST_CLASSES:
        return None
    labels = [label for label in order if label in occurring]
    labels += sorted(occurring - set(labels))
    counts = Counter(pairs)
    rows = (tuple(counts[gold, predicted] for predicted in labels) for gold in labels)
    return Confusion(tuple(labels), tuple(rows))


def calibration(confidences: Sequence[tuple[float, bool]], num_bins: int = NUM_BINS) -> Calibration:
    """How far predictions are as often right as their probabilities say.

    confidences: the probability of each prediction, and whether it was right. The bins are equally
    wide. Source: Guo et al. 2017, section 2 (arXiv:1706.04599), equations 3 and 5.
    """
    probability = np.array([p for p, _ in confidences], dtype=np.float64)
    is_right = np.array([right for _, right in confidences], dtype=np.float64)
    edges = np.linspace(0, 1, num_bins + 1)
    bin_of = np.searchsorted(edges[1:-1], probability)
    bins = []
    for i in np.unique(bin_of):
        inside = bin_of == i
        bins.append(
            Bin(
                float(edges[i]),
                float(edges[i + 1]),
                int(inside.sum()),
                float(probability[inside].mean()),
                float(is_right[inside].mean()),
            )
        )
    error = sum(b.count * abs(b.accuracy - b.probability) for b in bins) / len(confidences)
    return Calibration(error, tuple(bins))


def example_fields(item: Item) -> dict[str, Any]:
    """What an item's example is, as JSON holds it: what it has of id, text, second text, words and
    choices."""
    example = item.example
    fields = {
        "id": example.id,
        "text": example.text,
        "second": example.second,
        "words": example.words,
        "choices": example.choices,
    }
    return {name: value for name, value in fields.items() if value is not None}
