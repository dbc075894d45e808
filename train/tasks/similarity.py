"""How similar two texts are.

Shapes: B sequences of a batch, D hidden, K pairs.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibert.heads import normalize
from train.batches import Batch, Item
from train.model import JointModel
from train.settings import Settings
from train.tasks.pairs import Apart
from train.tasks.records import Metric, Prediction
from train.tasks.regression import SentenceRegression


class PairSimilarity(Apart, SentenceRegression):
    """One number for a pair of texts: the cosine of their vectors, by squared error, without a head
    (Reimers and Gurevych 2019, section 3, "regression objective function").

    Scores within -1 to 1 are cosines. Of others, the lowest in train is learnt as a cosine of 0,
    and the highest as 1.
    """

    kind = "similarity"

    @classmethod
    def scaling(cls, scores: NDArray[np.float64]) -> tuple[float, float]:
        low, high = float(scores.min()), float(scores.max())
        if low >= -1 and high <= 1:
            return 0.0, 1.0
        return low, high - low or 1.0

    def compare(self, model: JointModel, vectors: Tensor, positions: Tensor) -> Tensor:
        vectors = normalize(vectors)  # (B, D) -> (B, D)
        first, second = vectors[positions[:, 0]], vectors[positions[:, 1]]  # (B, D) -> (K, D)
        return (first * second).sum(-1)  # (K, D) -> (K)


class PairOrder(PairSimilarity):
    """One number for a pair of texts: the cosine of their vectors, learnt by the order of the pairs
    alone (CoSENT; Su 2022, and Huang et al. 2024, doi:10.1109/TASLP.2024.3402087).

    The loss of a batch is log(1 + sum of exp(scale * (cosine_j - cosine_i))), over all i and j such
    that pair i has a higher score than pair j. It is one number for the whole batch. Its part in a
    sum of several batches grows with the number of its i and j.
    cosine_scale: by what the cosines are multiplied.
    """

    kind = "similarity by order"
    metrics = (Metric("spearman", is_shown=True), Metric("pearson"))
    is_squared_error = False
    compares_items = True
    cosine_scale: float = 20.0

    @classmethod
    def is_wanted(cls, name: str, settings: Settings) -> bool:
        return settings.vector_loss == "cosent" and super().is_wanted(name, settings)

    def configure(self, settings: Settings) -> None:
        super().configure(settings)
        self.cosine_scale = settings.scale

    def count(self, batch: Batch) -> float:
        """How many i and j there are such that pair i has a higher score than pair j."""
        if self.name not in batch.targets:
            return 0.0
        return float(_is_higher(batch.targets[self.name]).sum())

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        is_higher = _is_higher(targets)  # (K) -> (K, K)
        gaps = self.cosine_scale * (logits - logits.unsqueeze(1))  # (K) -> (K, K)
        found = torch.cat([gaps.new_zeros(1), gaps[is_higher]])
        return found.logsumexp(0) * (len(found) - 1)

    def are_right(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> list[bool]:
        """Whether each pair stands above all that have a lower score, and below all that have a
        higher one."""
        gold = np.array([item.example.labels[self.name] for item in items])
        found = np.array([prediction.label for prediction in predictions])
        order = np.sign(gold[:, None] - gold)
        agrees = (order == 0) | (order == np.sign(found[:, None] - found))
        return [bool(row.all()) for row in agrees]

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Only what the order of the pairs tells."""
        found = super().measure(items, predictions)
        return {metric.name: found[metric.name] for metric in self.metrics}


def _is_higher(scores: Tensor) -> Tensor:
    """Whether score i is higher than score j."""
    return scores.unsqueeze(1) > scores  # (K) -> (K, K)
