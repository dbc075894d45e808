"""Search by products, and the metrics of what it finds; the tests hold these against
sentence-transformers and scikit-learn.

A ranking is the documents that were found, the best first, each by its number in the corpus. A
query's relevance is the grade of each document that is relevant to it: 1, or more for better ones.

Shapes: Q queries, C documents of the corpus, D numbers of a vector, k documents found.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from minibert.nearest import Nearest
from train.metrics import mean

QUERIES = 256  # how many are compared at once with
DOCUMENTS = 2**14  # so many documents: 16 MiB of products
DEPTH = 10  # how far down a ranking the metrics look

Relevance = Mapping[int, float]


def search(
    queries: NDArray[np.float32], corpus: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k documents of a corpus that have the highest products with each query, the highest
    first. Of equal products, the first document in the corpus comes first.

    queries: (Q, D) float32; corpus: (C, D) float32. Returns their numbers, int64, and products,
    float32, both (Q, min(k, C)). Every document is compared, and only a block of the products is
    ever in memory. Products of vectors of length 1 are cosines.
    """
    k = min(k, len(corpus))
    numbers = np.empty((len(queries), k), np.int64)
    products = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        nearest = Nearest(len(block), k)
        for first in range(0, len(corpus), DOCUMENTS):
            nearest.add(block @ corpus[first : first + DOCUMENTS].T)
        numbers[start : start + QUERIES] = nearest.numbers
        products[start : start + QUERIES] = nearest.scores
    return numbers, products


def rank_documents(
    queries: NDArray[np.float32],
    corpus: NDArray[np.float32],
    relevances: Sequence[Relevance],
    own: Sequence[int | None],
) -> list[list[int]]:
    """The ranking of each query, as long as the metrics look.

    own: the document that is the query itself, if there is one. The query does not find it, unless
    it is relevant to it.
    """
    found, _ = search(queries, corpus, DEPTH + 1)
    return [
        [document for document in ranking if document != itself or document in relevance][:DEPTH]
        for ranking, relevance, itself in zip(found.tolist(), relevances, own, strict=True)
    ]


def recall_at(k: int, ranking: Sequence[int], relevance: Relevance) -> float:
    """The share of a query's relevant documents that are among the first k."""
    return sum(document in relevance for document in ranking[:k]) / len(relevance)


def reciprocal_rank(ranking: Sequence[int], relevance: Relevance, k: int | None = None) -> float:
    """1 / the rank of the first relevant document; 0 if none is there, or none among the first k.

    Its mean over queries is MRR, or MRR@k.
    """
    for rank, document in enumerate(ranking[:k], start=1):
        if document in relevance:
            return 1 / rank
    return 0.0


def ndcg_at(k: int, ranking: Sequence[int], relevance: Relevance) -> float:
    """How good the order of the first k documents is, 0 to 1: the sum of their grades, each divided
    by log2(rank + 1), as a share of the best sum that there could be.

    Järvelin and Kekäläinen 2002, section 2.2, with the grade itself as gain, as trec_eval and BEIR
    have it; some others take 2 ** grade - 1.
    """
    found = _discounted([relevance.get(document, 0.0) for document in ranking[:k]])
    return found / _discounted(sorted(relevance.values(), reverse=True)[:k])


def _discounted(grades: Sequence[float]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def measure_rankings(
    rankings: Sequence[Sequence[int]], relevances: Sequence[Relevance]
) -> dict[str, float]:
    """The means over queries: nDCG@10, MRR@10, and recall at 1, 5 and 10. The rankings should be 10
    documents long, where the corpus has so many."""
    pairs = list(zip(rankings, relevances, strict=True))
    result = {
        f"ndcg_at_{DEPTH}": mean([ndcg_at(DEPTH, *pair) for pair in pairs]),
        f"mrr_at_{DEPTH}": mean([reciprocal_rank(*pair, k=DEPTH) for pair in pairs]),
    }
    return result | {
        f"recall_at_{k}": mean([recall_at(k, *pair) for pair in pairs]) for k in (1, 5, DEPTH)
    }
