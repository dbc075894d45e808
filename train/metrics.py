"""The metrics, by hand in numpy; the tests hold them against scikit-learn and scipy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def accuracy(gold: Sequence[object], predicted: Sequence[object]) -> float:
    """The share of equal pairs; 0 for no pairs."""
    _check_lengths(gold, predicted)
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / max(len(gold), 1)


def per_label(
    gold: Sequence[str], predicted: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """Precision, recall and F1 of each label that occurs in either; 0 where a denominator is 0."""
    _check_lengths(gold, predicted)
    result = {}
    for label in sorted({*gold, *predicted}):
        hits = sum(g == p == label for g, p in zip(gold, predicted, strict=True))
        result[label] = precision_recall_f1(
            hits, list(predicted).count(label), list(gold).count(label)
        )
    return result


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The mean F1 of the labels that occur, each counting the same however rare: TweetEval's metric
    for emotion."""
    return float(np.mean([f1 for _, _, f1 in per_label(gold, predicted).values()] or [0.0]))


def macro_recall(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The mean recall of the labels that occur in gold: TweetEval's metric for sentiment."""
    recalls = [
        recall for label, (_, recall, _) in per_label(gold, predicted).items() if label in set(gold)
    ]
    return float(np.mean(recalls or [0.0]))


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


def _check_lengths(gold: Sequence | NDArray, predicted: Sequence | NDArray) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold values, but {len(predicted)} predictions")
