"""How similar two texts are."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from minibert.heads import normalize, pool
from minibert.model import BertConfig
from train.batches import Batch
from train.model import JointModel
from train.tasks.pairs import Apart
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

    def build_head(self, config: BertConfig) -> nn.Module:
        return nn.Identity()

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        vectors = normalize(pool(states, batch.layout, self.pooling))  # (*, D) -> (B, D)
        first, second = vectors[positions[:, 0]], vectors[positions[:, 1]]  # (B, D) -> (K, D)
        return (first * second).sum(-1)  # (K, D) -> (K)
