"""Vectors from texts alone."""

from collections.abc import Sequence

import numpy as np

from minibert.tokenizer import Tokenizer
from train.batches import Item
from train.data.examples import Negatives
from train.settings import Settings
from train.tasks.contrastive import Contrastive
from train.tasks.records import Metric, Prediction
from train.tasks.text import TextTask

ROWS = 256  # whose distances are in memory at once


class SimCSE(TextTask, Contrastive):
    """A text is its own positive: it is read twice, dropout makes two vectors of it, and each must
    find the other among all texts of the batch (Gao et al. 2021, section 3, arXiv:2104.08821).

    Its measure is how evenly the vectors lie on the sphere, the lower the better: log of the mean
    of exp(-2 * distance ** 2) over all pairs of different texts (Wang and Isola 2020, section
    4.1, arXiv:2005.10242). It does not tell whether near texts mean the same. Scored pairs do:
    give some as `dev_data`, and let `monitor` choose the best step by them.
    """

    kind = "simcse"
    objective = "simcse"
    text_form = "twice"
    can_memorise = False  # without dropout, a text always finds itself
    keeps_texts_apart = False
    metrics = (Metric("uniformity", is_shown=True, sign=-1),)

    @classmethod
    def from_text(cls, settings: Settings, tokenizer: Tokenizer) -> "SimCSE":
        task = cls(cls.objective, cls.pooling_of(cls.objective, settings))
        task.configure(settings)
        return task

    def text_label(self, text: str, follows: bool) -> Negatives:
        """No text is known to be a negative."""
        return Negatives()

    def error(self, gold: Negatives, prediction: Prediction) -> float:
        """Without dropout, a text always finds itself."""
        return 0.0

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        found = {
            item.example.text: prediction.vectors[0]
            for item, prediction in zip(items, predictions, strict=True)
            if prediction.vectors is not None
        }
        vectors = np.stack(list(found.values())).astype(np.float64)
        if len(vectors) < 2:
            return {"uniformity": 0.0}
        total = 0.0
        for start in range(0, len(vectors), ROWS):
            cosines = vectors[start : start + ROWS] @ vectors.T
            total += float(np.exp(4 * cosines - 4).sum())  # distance ** 2 = 2 - 2 * cosine
        count = len(vectors)  # each is also compared with itself, at a distance of 0
        return {"uniformity": float(np.log((total - count) / (count * (count - 1))))}
