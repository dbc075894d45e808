"""retrieval.py: search equals the sorting of all products, and the metrics equal
sentence-transformers' and scikit-learn's."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from train import retrieval
from train.retrieval import measure_rankings, ndcg_at, recall_at, reciprocal_rank, search


def whole(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Small whole numbers, whose products are exact and often equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 40, 61, 100])
@pytest.mark.parametrize(("num_queries", "num_documents"), [(1, 1), (9, 61), (23, 60)])
def test_search_is_the_sorting_of_all_products(
    num_queries: int, num_documents: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal products, in blocks that divide the sizes and in some that do not."""
    queries, corpus = whole(num_queries, 3, seed=1), whole(num_documents, 3, seed=2)
    every = queries @ corpus.T
    wanted = np.argsort(-every, axis=1, kind="stable")[:, :k]
    for of_queries, of_documents in ((256, 2**14), (4, 20), (23, 7), (1, 1)):
        monkeypatch.setattr(retrieval, "QUERIES", of_queries)
        monkeypatch.setattr(retrieval, "DOCUMENTS", of_documents)
        numbers, products = search(queries, corpus, k)
        np.testing.assert_array_equal(numbers, wanted)
        np.testing.assert_array_equal(products, np.take_along_axis(every, wanted, axis=1))
        assert (numbers.dtype, products.dtype) == (np.int64, np.float32)


def test_search_of_nothing() -> None:
    for queries, corpus in ((whole(0, 3), whole(5, 3)), (whole(2, 3), whole(0, 3))):
        numbers, products = search(queries, corpus, 4)
        assert numbers.shape == products.shape == (len(queries), min(4, len(corpus)))


def test_search_holds_a_block_of_the_products() -> None:
    """All 2,000 x 60,000 products would be 480 MB."""
    queries, corpus = whole(2000, 4), whole(60_000, 4)
    tracemalloc.start()
    search(queries, corpus, 10)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6


class Vectors:
    """What sentence-transformers' evaluator asks of a model, with vectors in place of texts."""

    def __init__(self, queries: NDArray[np.float32], corpus: NDArray[np.float32]) -> None:
        self.queries, self.corpus = torch.from_numpy(queries), torch.from_numpy(corpus)

    def encode_query(self, texts: list[str], **_: Any) -> torch.Tensor:
        return self.queries[[int(text) for text in texts]]

    def encode_document(self, texts: list[str], **_: Any) -> torch.Tensor:
        return self.corpus[[int(text) for text in texts]]


def test_metrics_are_as_in_sentence_transformers() -> None:
    """Over one to five relevant documents a query."""
    dice = np.random.default_rng(3)
    queries = dice.standard_normal((50, 4)).astype(np.float32)
    corpus = dice.standard_normal((300, 4)).astype(np.float32)
    numbers, _ = search(queries, corpus, 10)
    near, _ = search(queries, corpus, 40)
    relevances = [
        {int(document): 1.0 for document in dice.choice(own, dice.integers(1, 6), replace=False)}
        for own in near
    ]
    evaluator = InformationRetrievalEvaluator(
        {f"{i:03}": str(i) for i in range(50)},
        {f"{i:03}": str(i) for i in range(300)},
        {f"{i:03}": {f"{document:03}" for document in own} for i, own in enumerate(relevances)},
        precision_recall_at_k=[1, 5, 10],
        score_functions={"dot": lambda a, b: a @ b.T},
    )
    found = evaluator.compute_all_metrics(Vectors(queries, corpus))["dot"]  # type: ignore[arg-type]
    wanted = {
        "ndcg_at_10": found["ndcg@k"][10],
        "mrr_at_10": found["mrr@k"][10],
        **{f"recall_at_{k}": found["recall@k"][k] for k in (1, 5, 10)},
    }
    ours = measure_rankings(numbers.tolist(), relevances)
    assert ours == pytest.approx(wanted, abs=1e-12)
    assert 0.1 < ours["ndcg_at_10"] < 0.9


@settings(max_examples=100)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_ndcg_of_grades_is_as_in_scikit_learn(grades: list[int], dice: Any) -> None:
    relevance = {i: float(grade) for i, grade in enumerate(grades) if grade}
    ranking = dice.sample(range(len(grades)), len(grades))
    scores = [-ranking.index(i) for i in range(len(grades))]
    for k in (1, 3, 10, 30) if relevance else ():
        wanted = sklearn.metrics.ndcg_score([grades], [scores], k=k)
        assert ndcg_at(k, ranking, relevance) == pytest.approx(wanted, abs=1e-12)


def test_a_ranking_by_hand() -> None:
    ranking, relevance = [4, 7, 1, 9], {1: 1.0, 7: 2.0, 5: 1.0}
    assert [recall_at(k, ranking, relevance) for k in (1, 2, 4)] == [0, 1 / 3, 2 / 3]
    assert reciprocal_rank(ranking, relevance) == 1 / 2
    assert reciprocal_rank(ranking, relevance, k=1) == 0
    assert reciprocal_rank([3], relevance) == 0
    assert reciprocal_rank([], relevance) == 0
