"""The metrics, by hand in numpy; the tests hold them against scikit-learn and scipy."""

from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import ArrayLike, NDArray

# of each label: precision, recall and F1, 0 where a denominator is 0, and in how many texts it is
Figures = dict[str, dict[str, float]]


def accuracy(gold: Sequence[object], predicted: Sequence[object]) -> float:
    """The share of equal pairs; 0 for no pairs."""
    _check_lengths(gold, predicted)
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / max(len(gold), 1)


def per_label(gold: Sequence[str], predicted: Sequence[str]) -> Figures:
    """The figures of each label that occurs in either."""
    return per_label_of_sets([{label} for label in gold], [{label} for label in predicted])


def per_label_of_sets(
    gold: Sequence[AbstractSet[str]],
    predicted: Sequence[AbstractSet[str]],
    labels: Iterable[str] = (),
) -> Figures:
    """The figures of each label, where a text has any number of them. labels: those that have
    figures even if they do not occur."""
    _check_lengths(gold, predicted)
    support, found = (Counter(label for own in side for label in own) for side in (gold, predicted))
    hits = Counter(label for g, p in zip(gold, predicted, strict=True) for label in g & p)
    result = {}
    for label in sorted({*labels, *support, *found}):
        precision, recall, f1 = precision_recall_f1(hits[label], found[label], support[label])
        of_label = {"precision": precision, "recall": recall, "f1": f1}
        result[label] = of_label | {"support": support[label]}
    return result


def mean(values: ArrayLike) -> float:
    """The mean; 0 of no values."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else 0.0


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The mean F1 of the labels that occur, each counting the same however rare: TweetEval's metric
    for emotion."""
    return mean([of_label["f1"] for of_label in per_label(gold, predicted).values()])


def macro_recall(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The mean recall of the labels that occur in gold: TweetEval's metric for sentiment."""
    of_labels = per_label(gold, predicted).values()
    return mean([of_label["recall"] for of_label in of_labels if of_label["support"]])


def micro_f1(gold: Sequence[AbstractSet[str]], predicted: Sequence[AbstractSet[str]]) -> float:
    """F1 over all labels of all texts together."""
    _check_lengths(gold, predicted)
    hits = sum(len(g & p) for g, p in zip(gold, predicted, strict=True))
    return precision_recall_f1(hits, sum(map(len, predicted)), sum(map(len, gold)))[2]


def samples_f1(gold: Sequence[AbstractSet[str]], predicted: Sequence[AbstractSet[str]]) -> float:
    """The mean over texts of the F1 of a text's labels. As in scikit-learn, it is 0 for a text that
    has no label and is predicted none."""
    _check_lengths(gold, predicted)
    return mean(
        [
            precision_recall_f1(len(g & p), len(p), len(g))[2]
            for g, p in zip(gold, predicted, strict=True)
        ]
    )


def average_precision(gold: Sequence[bool], scores: Sequence[float]) -> float:
    """How well scores rank: the mean, over the right ones, of the precision from the highest score
    down to theirs. Equal scores have one precision. 0 where none is right.

    As scikit-learn's average_precision_score, which does not interpolate.
    """
    hits, counts, _ = _from_the_highest(gold, scores)
    if not hits.size or hits[-1] == 0:
        return 0.0
    return float(np.diff(hits, prepend=0) @ (hits / counts) / hits[-1])


def best_threshold(gold: Sequence[bool], scores: Sequence[float]) -> float:
    """The threshold whose F1 is the highest, where a score is positive that is at least the
    threshold: half-way to the next lower score. The highest of several; 0.5 where none is
    right."""
    hits, counts, levels = _from_the_highest(gold, scores)
    if not hits.size or hits[-1] == 0:
        return 0.5
    best = int(np.argmax(2 * hits / (counts + hits[-1])))
    return float((levels[best] + np.append(levels, 0.0)[best + 1]) / 2)


def _from_the_highest(
    gold: Sequence[bool], scores: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each different score from the highest down: how many of the items with at least this
    score are right, and how many there are; and the scores themselves."""
    _check_lengths(gold, scores)
    levels, numbers = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
    hits = np.bincount(numbers, np.asarray(gold, dtype=np.float64), len(levels)).astype(np.int64)
    return np.cumsum(hits), np.cumsum(np.bincount(numbers, minlength=len(levels))), -levels


def precision_recall_f1(hits: int, predicted: int, gold: int) -> tuple[float, float, float]:
    """From counts: how many predictions are right, how many were made, how many there are to
    find."""
    precision = hits / predicted if predicted else 0.0
    recall = hits / gold if gold else 0.0
    return precision, recall, 2 * hits / (predicted + gold) if predicted + gold else 0.0


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """The linear correlation, -1 to 1; 0 where one side is constant, which leaves it undefined."""
    a, b = (np.asarray(side, dtype=np.float64) for side in (x, y))
    _check_lengths(a, b)
    if a.size < 2:
        return 0.0
    # the differences from a mean are not always 0 then: rounding
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    # so that no square is 0 or infinite
    a, b = (side / np.abs(side).max() for side in (a - a.mean(), b - b.mean()))
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """The correlation of ranks, where equal values share the mean of their ranks."""
    return pearson(ranks(np.asarray(x, dtype=np.float64)), ranks(np.asarray(y, dtype=np.float64)))


def ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each value, from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def root_mean_squared_error(x: ArrayLike, y: ArrayLike) -> float:
    """The error of some numbers, in their own unit; large errors count most. 0 of no numbers."""
    return float(np.sqrt(mean(_distances(x, y) ** 2)))


def mean_absolute_error(x: ArrayLike, y: ArrayLike) -> float:
    """The mean distance of some numbers, in their own unit. 0 of no numbers."""
    return mean(_distances(x, y))


def _distances(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    a, b = (np.asarray(side, dtype=np.float64) for side in (x, y))
    _check_lengths(a, b)
    return np.abs(a - b)


def _check_lengths(gold: Sequence | NDArray, predicted: Sequence | NDArray) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold values, but {len(predicted)} predictions")
