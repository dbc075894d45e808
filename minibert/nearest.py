"""The best documents for each query, found while the documents come.

Shapes: Q queries, C documents of a block, k documents found.
"""

import numpy as np
from numpy.typing import NDArray


class Nearest:
    """The k documents with the highest scores for each query, the highest first. Of equal scores,
    the document that came first comes first.

    scores: (Q, min(k, seen)) float32. numbers: of the same shape, int64; documents are counted from
    0 in the order in which they came. seen: how many came. Memory does not grow with them.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k, self.seen = k, 0
        self.scores = np.empty((queries, 0), np.float32)
        self.numbers = np.empty((queries, 0), np.int64)

    def add(self, scores: NDArray[np.float32]) -> None:
        """Take up the next documents, by their scores, (Q, C)."""
        before, self.seen = self.seen, self.seen + scores.shape[1]
        numbers = np.broadcast_to(np.arange(before, self.seen), scores.shape)
        # What was found before stands first, as it came first.
        together = np.concatenate([self.scores, scores], axis=1)
        columns = highest(together, self.k)
        self.scores = np.take_along_axis(together, columns, axis=1)
        self.numbers = np.take_along_axis(
            np.concatenate([self.numbers, numbers], axis=1), columns, axis=1
        )


def highest(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The columns of the k highest of each row, or of all, the highest first and equal ones in
    their order."""
    if k >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    lowest = np.partition(scores, -k, axis=1)[:, -k]
    columns = np.empty((len(scores), k), np.int64)
    for i, row in enumerate(scores):
        found = np.flatnonzero(row >= lowest[i])  # more than k, where several equal the lowest
        columns[i] = found[np.argsort(-row[found], kind="stable")[:k]]
    return columns
