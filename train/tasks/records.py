"""What a task says, in small records: a prediction, a metric, and the class of transformers that
computes the same.

Shapes: D hidden, P texts of an item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """What a task says of one item, and how sure it is.

    scores: what the label was chosen from, for kinds that have classes: the probability of each.
    cut: how many tokens were cut off, and so not seen; of several sequences, where it was most.
    vectors: of the texts that were read, (P, D), for kinds that measure vectors.
    """

    label: Any
    probability: Any = None
    scores: Mapping[str, float] | None = None
    cut: int = 0
    vectors: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Metric:
    """A number that a kind measures, and how it is shown."""

    name: str
    is_shown: bool = False  # in the run's output and tables
    is_percent: bool = False
    sign: int = 1  # -1 if lower is better

    def text(self, value: float) -> str:
        """The number as people read it."""
        return f"{value * 100:.2f}" if self.is_percent else f"{value:.4f}"


@dataclass(frozen=True)
class Mark:
    """A part of a text, and what it is marked as."""

    kind: str
    start: int  # in characters
    end: int


LOSS = Metric("loss", sign=-1)  # what every kind has: the mean loss, as in training
# Of the texts that have both tags and a class: the share in which all are right.
FRAME = Metric("frame", is_shown=True, is_percent=True)


@dataclass(frozen=True)
class Counterpart:
    """The class of `transformers` that computes a task's logits, and what its files say.

    The head's parameters must have the same names there ("classifier.weight").
    """

    architecture: str
    pipeline: str
    labels: tuple[str, ...]
    problem_type: str | None = None
