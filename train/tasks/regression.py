"""A number for a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.heads import SentenceHead
from minibert.model import BertConfig
from train import metrics
from train.batches import Batch, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.tasks.base import Counterpart, Metric, Prediction
from train.tasks.targets import SentenceTask

CLOSE = 0.1  # how far off a number may be that counts as memorised


class SentenceRegression(SentenceTask):
    """One number for a text, by squared error."""

    kind = "regression"
    takes_windows = True
    metrics = (
        Metric("spearman", is_shown=True),
        Metric("pearson"),
        Metric("root_mean_squared_error", sign=-1),
    )
    is_number = True
    is_squared_error = True
    is_sigmoid = False  # of a head learnt elsewhere: the score is the logit's sigmoid

    def __init__(self, name: str, pooling: str = "mean") -> None:
        super().__init__(name, (), pooling)

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(e.labels[name], float) and e.second is None for e in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "SentenceRegression":
        return cls(name, cls.pooling_of(name, settings))

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "SentenceRegression":
        return cls(description["name"], description["pooling"])

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
        return [item.example.labels[self.name]]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        return super().logits(model, states, batch, positions)[:, 0]  # (*, D) -> (K)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(logits.float(), targets, reduction="sum")

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        return Prediction(float(logits[0].sigmoid() if self.is_sigmoid else logits[0]))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold = np.array([item.example.labels[self.name] for item in items], dtype=np.float64)
        predicted = np.array([prediction.label for prediction in predictions], dtype=np.float64)
        error = float(np.sqrt(np.mean((gold - predicted) ** 2))) if len(gold) else 0.0
        return {
            "spearman": metrics.spearman(gold, predicted),
            "pearson": metrics.pearson(gold, predicted),
            "root_mean_squared_error": error,
        }

    def is_right(self, gold: float, predicted: float) -> bool:
        return abs(gold - predicted) <= CLOSE

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
