"""metrics.py: equal to scikit-learn and scipy, on inputs drawn at random and on degenerate
ones."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from train.metrics import (
    accuracy,
    average_precision,
    best_threshold,
    macro_f1,
    macro_recall,
    mean,
    mean_absolute_error,
    micro_f1,
    pearson,
    per_label,
    per_label_of_sets,
    precision_recall_f1,
    ranks,
    root_mean_squared_error,
    samples_f1,
    spearman,
)

LABELS = st.sampled_from("abcde")
# some labels occur on one side only, or nowhere
PAIRS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=40)
# ties are common
NUMBERS = st.one_of(st.integers(-5, 5).map(float), st.floats(-1e3, 1e3, width=16))
SCORES = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30)


@settings(max_examples=100)
@given(PAIRS)
def test_classification_is_as_in_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = ([pair[side] for pair in pairs] for side in (0, 1))
    assert accuracy(gold, predicted) == pytest.approx(
        sklearn.metrics.accuracy_score(gold, predicted), abs=1e-12
    )
    wanted = sklearn.metrics.f1_score(gold, predicted, average="macro", zero_division=0)
    assert macro_f1(gold, predicted) == pytest.approx(wanted, abs=1e-12)
    occurring = sorted(set(gold))
    wanted = sklearn.metrics.recall_score(
        gold, predicted, labels=occurring, average="macro", zero_division=0
    )
    assert macro_recall(gold, predicted) == pytest.approx(wanted, abs=1e-12)
    names = sorted({*gold, *predicted})
    columns = sklearn.metrics.precision_recall_fscore_support(
        gold, predicted, labels=names, zero_division=0
    )
    found = per_label(gold, predicted)
    assert list(found) == names
    rows = [list(figures.values()) for figures in found.values()]
    assert np.allclose(np.array(rows), np.array(columns).T, rtol=0, atol=1e-12)
    assert list(found[names[0]]) == ["precision", "recall", "f1", "support"]


def test_macro_metrics_count_labels_that_are_only_predicted_as_they_should() -> None:
    gold, predicted = ["a", "a", "b", "b"], ["a", "c", "b", "b"]
    # c has no gold, and costs
    assert macro_f1(gold, predicted) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert macro_recall(gold, predicted) == (1 / 2 + 1) / 2  # c cannot be recalled


SETS = st.frozensets(LABELS)
# every label has a probability; ties are common
PROBABILITIES = st.lists(
    st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32)),
    min_size=5,
    max_size=5,
)
TEXTS = st.lists(st.tuples(SETS, SETS, PROBABILITIES), min_size=1, max_size=30)


@settings(max_examples=50)
@given(TEXTS)
def test_several_labels_are_measured_as_in_scikit_learn(texts: list[tuple[Any, ...]]) -> None:
    """Also where texts have no label or are predicted none, and where a label does not occur."""
    gold, predicted = ([text[side] for text in texts] for side in (0, 1))
    rows = [[[label in own for label in "abcde"] for own in side] for side in (gold, predicted)]
    matrices = [np.array(side, dtype=int) for side in rows]
    for ours, average in ((micro_f1, "micro"), (samples_f1, "samples")):
        wanted = sklearn.metrics.f1_score(*matrices, average=average, zero_division=0)
        assert ours(gold, predicted) == pytest.approx(wanted, abs=1e-12)
    assert accuracy(gold, predicted) == sklearn.metrics.accuracy_score(*matrices)
    columns = sklearn.metrics.precision_recall_fscore_support(*matrices, zero_division=0)
    found = per_label_of_sets(gold, predicted, "abcde")
    assert list(found) == list("abcde")
    assert np.allclose(
        [list(figures.values()) for figures in found.values()],
        np.array(columns).T,
        rtol=0,
        atol=1e-12,
    )
    wanted = sklearn.metrics.f1_score(*matrices, average="macro", zero_division=0)
    assert mean([figures["f1"] for figures in found.values()]) == pytest.approx(wanted, abs=1e-12)
    scores = np.array([text[2] for text in texts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a label that no text has; it takes 0, as we do
        wanted = sklearn.metrics.average_precision_score(matrices[0], scores, average=None)
    for i, label in enumerate("abcde"):
        has_it = [label in own for own in gold]
        assert average_precision(has_it, scores[:, i].tolist()) == pytest.approx(
            wanted[i], abs=1e-12
        )


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(range(20))), min_size=1, max_size=30))
def test_the_best_threshold_is_the_best_of_all(pairs: list[tuple[bool, int]]) -> None:
    """Against every threshold that decides differently."""
    gold, scores = [pair[0] for pair in pairs], [pair[1] / 20 for pair in pairs]

    def f1(threshold: float) -> float:
        chosen = [score >= threshold for score in scores]
        hits = sum(g and c for g, c in zip(gold, chosen, strict=True))
        return 2 * hits / max(sum(gold) + sum(chosen), 1)

    found = best_threshold(gold, scores)
    assert f1(found) == pytest.approx(max(f1(i / 40 + 0.001) for i in range(-1, 41)))
    assert 0 <= found <= 1
    if not any(gold):
        assert found == 0.5


def test_a_threshold_is_half_way_between_two_scores() -> None:
    gold, scores = [True, True, False, False], [0.9, 0.8, 0.4, 0.1]
    assert best_threshold(gold, scores) == pytest.approx(0.6)
    assert best_threshold([True, False], [0.3, 0.3]) == pytest.approx(0.15)  # both or none
    assert best_threshold([], []) == 0.5
    assert average_precision([], []) == 0


@settings(max_examples=50)
@given(SCORES)
def test_errors_are_as_in_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    x, y = ([pair[side] for pair in pairs] for side in (0, 1))
    wanted = sklearn.metrics.root_mean_squared_error(x, y)
    assert root_mean_squared_error(x, y) == pytest.approx(wanted, abs=1e-12)
    wanted = sklearn.metrics.mean_absolute_error(x, y)
    assert mean_absolute_error(x, y) == pytest.approx(wanted, abs=1e-12)
    assert root_mean_squared_error([], []) == mean_absolute_error([], []) == 0


@settings(max_examples=150)
@given(SCORES)
def test_correlations_are_as_in_scipy(pairs: list[tuple[float, float]]) -> None:
    x, y = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    for ours, theirs in ((pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a side that is constant, or nearly
            wanted = 0.0 if constant else float(theirs(x, y).statistic)
        found = ours(x, y)
        assert found == pytest.approx(wanted, abs=1e-9)
        assert -1 <= found <= 1


@settings(max_examples=100)
@given(st.lists(NUMBERS, max_size=30))
def test_ranks_are_as_in_scipy(values: list[float]) -> None:
    x = np.array(values, dtype=np.float64)
    assert ranks(x).tolist() == scipy.stats.rankdata(x).tolist()


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_correlations_of_degenerate_input(
    correlation: Callable[[Sequence[float], Sequence[float]], float],
) -> None:
    assert correlation([], []) == 0
    assert correlation([1.0], [2.0]) == 0
    assert correlation([1.0, 2.0], [3.0, 3.0]) == 0
    assert correlation([0.1] * 3, [0.1] * 3) == 0  # whose mean is not 0.1: rounding
    assert correlation([0.1] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 0
    assert correlation([0.0, 1e-200, 2e-200], [1e200, 2e200, 3e200]) == pytest.approx(1)
    assert correlation([1e-200, 0.0], [-1e200, 1e200]) == pytest.approx(-1)
    assert correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)


def test_pearson_tells_a_broken_model() -> None:
    assert math.isnan(pearson([1.0, 2.0, 3.0], [1.0, float("nan"), 2.0]))


def test_no_examples() -> None:
    assert accuracy([], []) == macro_f1([], []) == macro_recall([], []) == 0
    assert per_label([], []) == {}
    assert micro_f1([], []) == samples_f1([], []) == 0


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((0, 3, 0), (0, 0, 0)),
        ((0, 0, 3), (0, 0, 0)),
        ((2, 4, 3), (1 / 2, 2 / 3, 4 / 7)),
    ],
)
def test_precision_recall_and_f1(
    counts: tuple[int, int, int], wanted: tuple[float, float, float]
) -> None:
    assert precision_recall_f1(*counts) == pytest.approx(wanted)


LABELLED = [accuracy, per_label, macro_f1, macro_recall]
SEVERAL = [per_label_of_sets, micro_f1, samples_f1]
NUMERIC = [
    pearson,
    root_mean_squared_error,
    mean_absolute_error,
    average_precision,
    best_threshold,
]


@pytest.mark.parametrize("metric", [*LABELLED, *SEVERAL, *NUMERIC])
def test_gold_and_predictions_of_different_length(metric: Callable[..., object]) -> None:
    gold: list[Any] = [{1}, {2}] if metric in SEVERAL else [1, 2]
    with pytest.raises(ValueError, match="2 gold values, but 1 predictions"):
        metric(gold, gold[:1])
