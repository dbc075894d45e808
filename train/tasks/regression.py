"""A number for a text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.heads import SentenceHead
from train import metrics
from train.batches import Batch, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.tasks.records import Counterpart, Metric, Prediction
from train.tasks.targets import SentenceTask

CLOSE = 0.1  # how far off a number may be that counts as memorised, in units of the scale


class SentenceRegression(SentenceTask):
    """One number for a text, by squared error.

    The head learns numbers of mean 0 and variance 1, whatever the data's unit is: a prediction is
    offset + scale * what the head says. offset, scale: the mean and standard deviation of train.
    bounds: its lowest and highest number, for people.
    """

    kind = "regression"
    described: ClassVar = {
        **SentenceTask.described,
        "offset": float,
        "scale": float,
        "low": float | None,
        "high": float | None,
    }
    takes_windows = True
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("spearman", is_shown=True),
        Metric("pearson"),
        Metric("root_mean_squared_error", is_shown=True, sign=-1),
        Metric("mean_absolute_error", is_shown=True, sign=-1),
    )
    is_number = True
    is_squared_error = True
    is_sigmoid = False  # of a head learnt elsewhere: the score is the logit's sigmoid

    def __init__(
        self,
        name: str,
        pooling: str = "mean",
        offset: float = 0.0,
        scale: float = 1.0,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(name, (), pooling)
        self.offset = offset
        self.scale = scale
        self.bounds = bounds

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(
            isinstance(e.labels[name], float) and (e.second is not None) == cls.reads_pairs
            for e in examples
        )

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "SentenceRegression":
        scores = np.array([example.labels[name] for example in examples], dtype=np.float64)
        bounds = float(scores.min()), float(scores.max())
        with np.errstate(over="ignore", invalid="ignore"):  # a check follows
            offset, scale = cls.scaling(scores)
        if not (math.isfinite(offset) and math.isfinite(scale)):
            raise InputError(f"the task {name} has scores too large to compute with: {bounds}")
        return cls(name, cls.pooling_of(name, settings), offset, scale, bounds)

    @classmethod
    def scaling(cls, scores: NDArray[np.float64]) -> tuple[float, float]:
        """The offset and scale that make of some scores what is learnt."""
        if scores.min() == scores.max():
            return float(scores[0]), 1.0
        return float(scores.mean()), float(scores.std())

    def describe(self) -> dict[str, Any]:
        low, high = self.bounds or (None, None)
        scaling = {"offset": self.offset, "scale": self.scale, "low": low, "high": high}
        return super().describe() | scaling

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "SentenceRegression":
        """Runs of earlier versions learnt the numbers themselves, and have no offset or scale."""
        low = description.get("low")
        return cls(
            description["name"],
            description["pooling"],
            description.get("offset", 0.0),
            description.get("scale", 1.0),
            None if low is None else (low, description["high"]),
        )

    def summary(self) -> str:
        if self.bounds is None:
            return f"{self.name} ({self.kind})"
        low, high = self.bounds
        return f"{self.name} ({self.kind}, {low:.10g} to {high:.10g})"

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "SentenceRegression | None":
        """One label is a number. As in sentence-transformers and the pipelines of `transformers`,
        it is the logit's sigmoid where nothing says otherwise."""
        problem = config.get("problem_type")
        if architecture != "BertForSequenceClassification" or len(labels) != 1 or cls.reads_pairs:
            return None
        if problem not in (None, "regression", "single_label_classification"):
            return None
        task = cls("score", "pooler")
        task.reads_both = True
        plain = "Identity" if problem == "regression" else "Sigmoid"
        task.is_sigmoid = (config["activation_fn"] or plain) == "Sigmoid"
        return task

    def build_head(self, config: BertConfig) -> nn.Module:
        return SentenceHead(config, 1, self.pooling)

    def targets(self, item: Item) -> Sequence[float]:
        return [(item.example.labels[self.name] - self.offset) / self.scale]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        return super().logits(model, states, batch, positions)[:, 0]  # (*, D) -> (K)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(logits.float(), targets, reduction="sum")

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        logit = logits[0].sigmoid() if self.is_sigmoid else logits[0]
        return Prediction(self.offset + self.scale * float(logit))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold = np.array([item.example.labels[self.name] for item in items], dtype=np.float64)
        predicted = np.array([prediction.label for prediction in predictions], dtype=np.float64)
        return {
            "spearman": metrics.spearman(gold, predicted),
            "pearson": metrics.pearson(gold, predicted),
            "root_mean_squared_error": metrics.root_mean_squared_error(gold, predicted),
            "mean_absolute_error": metrics.mean_absolute_error(gold, predicted),
        }

    def is_right(self, gold: float, predicted: float) -> bool:
        return abs(gold - predicted) <= CLOSE * self.scale

    def error(self, gold: float, prediction: Prediction) -> float:
        """How far off it is."""
        return abs(gold - prediction.label)

    def as_record(self, prediction: Prediction, example: Example) -> dict[str, float]:
        return {"score": prediction.label}

    def as_text(self, prediction: Prediction, example: Example) -> str:
        return f"{prediction.label:.4f}"

    def counterpart(self) -> Counterpart | None:
        """A number is one label to `transformers`, as if it were a class."""
        if not self.uses_pooler:
            return None
        return Counterpart(
            "BertForSequenceClassification", "text-classification", (self.name,), "regression"
        )

    def export(self, head: nn.Module) -> dict[str, Tensor]:
        """The scaling becomes part of the linear layer, whose output is then the number itself."""
        weight, bias = (p.detach() * self.scale for p in head.parameters())
        return {"classifier.weight": weight, "classifier.bias": bias + self.offset}

    def import_head(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight, bias = tensors["classifier.weight"], tensors["classifier.bias"] - self.offset
        return {"classifier.weight": weight / self.scale, "classifier.bias": bias / self.scale}
