"""Vectors from texts alone."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from train.batches import Input, Item
from train.data.examples import Example
from train.settings import Settings
from train.tasks.base import Metric, Prediction
from train.tasks.contrastive import Contrastive


class SimCSE(Contrastive):
    """A text is its own positive: it is read twice, dropout makes two vectors of it, and each must
    find the other among all texts of the batch (Gao et al. 2021, section 3, arXiv:2104.08821).

    The measure is that of Wang and Isola 2020, section 4.2 (arXiv:2005.10242), how evenly the
    vectors of texts lie on the sphere: log of the mean of exp(-2 * distance ** 2) over all pairs of
    different texts. It tells only whether the vectors spread, and not whether near texts mean the
    same: better choose the best step by scored pairs (`dev_data` and `monitor`).
    """

    kind = "simcse"
    objective: ClassVar[str] = "simcse"  # its word in the setting `objectives`
    metrics = (Metric("uniformity", is_shown=True, sign=-1),)

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        """No field of a data set: it learns from plain text."""
        return False

    @classmethod
    def from_text(cls, settings: Settings) -> "SimCSE":
        """The task that plain text makes."""
        task = cls(cls.objective, cls.pooling_of(cls.objective, settings))
        task.configure(settings)
        return task
