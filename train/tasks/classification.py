"""One class for a text."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.heads import SentenceHead
from train import metrics
from train.batches import Batch, Item
from train.data.examples import Example
from train.metrics import Figures
from train.parse import parse_number, parse_pairs
from train.settings import Settings
from train.tasks.records import Counterpart, Metric, Prediction
from train.tasks.targets import SentenceTask


class SentenceClassification(SentenceTask):
    """One label for a text, by cross-entropy.

    class_weights: a factor for each label's loss; "auto" makes all labels count the same, n /
    (labels * count), as scikit-learn's "balanced". label_smoothing: the share of the target that is
    spread over all labels (Szegedy et al. 2016, section 7, arXiv:1512.00567).
    """

    kind = "sentence"
    takes_windows = True
    metrics = (
        Metric("accuracy", is_shown=True, is_percent=True),
        Metric("macro_f1", is_shown=True, is_percent=True),
        Metric("macro_recall", is_percent=True),
    )
    takes_class_weights = True

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        pooling: str = "mean",
        class_weights: tuple[float, ...] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(name, labels, pooling)
        self.numbers = {label: number for number, label in enumerate(labels)}
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(
            isinstance(e.labels[name], str) and (e.second is not None) == cls.reads_pairs
            for e in examples
        )

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "SentenceClassification":
        counts = Counter(example.labels[name] for example in examples)
        labels = tuple(sorted(counts))
        balanced = [len(examples) / (len(labels) * counts[label]) for label in labels]
        weights = parse_class_weights(name, labels, balanced, settings)
        return cls(name, labels, cls.pooling_of(name, settings), weights, settings.label_smoothing)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "SentenceClassification":
        return cls(description["name"], tuple(description["labels"]), description["pooling"])

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "SentenceClassification | None":
        if architecture != "BertForSequenceClassification" or len(labels) < 2 or cls.reads_pairs:
            return None
        if config.get("problem_type") != "single_label_classification" and (
            config.get("problem_type") is not None or config["activation_fn"] == "Sigmoid"
        ):
            return None
        task = cls("label", labels, "pooler")
        task.reads_both = True
        return task

    @classmethod
    def classes(cls, value: Any) -> Collection[str]:
        return (value,)

    def build_head(self, config: BertConfig) -> nn.Module:
        return SentenceHead(config, len(self.labels), self.pooling)

    def targets(self, item: Item) -> Sequence[int | None]:
        return [self.numbers.get(item.example.labels[self.name])]

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = None
        if self.class_weights is not None:
            weights = logits.new_tensor(self.class_weights)  # (C)
        return F.cross_entropy(
            logits, targets, weights, label_smoothing=self.label_smoothing, reduction="sum"
        )

    def count(self, batch: Batch) -> float:
        """How many targets, each with its class's weight: as PyTorch's weighted mean divides."""
        if self.class_weights is None or self.name not in batch.targets:
            return super().count(batch)
        weights = torch.tensor(self.class_weights, dtype=torch.float64)  # (C)
        return float(weights[batch.targets[self.name].cpu()].sum())

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        probabilities = logits[0].softmax(-1)  # (C)
        best = self.labels[int(probabilities.argmax())]
        scores = dict(zip(self.labels, probabilities.tolist(), strict=True))
        return Prediction(best, scores[best], scores)

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold, predicted = self._labels(items, predictions)
        return {
            "accuracy": metrics.accuracy(gold, predicted),
            "macro_f1": metrics.macro_f1(gold, predicted),
            "macro_recall": metrics.macro_recall(gold, predicted),
        }

    def _labels(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> tuple[list[str], list[str]]:
        gold = [item.example.labels[self.name] for item in items]
        return gold, [prediction.label for prediction in predictions]

    def error(self, gold: Any, prediction: Prediction) -> float:
        """The probability that was not given to the right label."""
        if self.is_right(gold, prediction.label):
            return 0.0
        return 1 - (prediction.scores or {}).get(gold, 0.0)

    def per_label(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Figures:
        return metrics.per_label(*self._labels(items, predictions))

    def confusions(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> list[tuple[str, str]]:
        return list(zip(*self._labels(items, predictions), strict=True))

    def beside_gold(self, gold: Any, prediction: Prediction) -> dict[str, Any]:
        return super().beside_gold(gold, prediction) | {"probability": prediction.probability}

    def counterpart(self) -> Counterpart | None:
        if not self.uses_pooler:
            return None
        return Counterpart("BertForSequenceClassification", "text-classification", self.labels)


def parse_class_weights(
    name: str, labels: tuple[str, ...], balanced: Sequence[float], settings: Settings
) -> tuple[float, ...] | None:
    """The weight of each label of a task, or None if the settings give it none.

    "auto" are the balanced ones; or they are given as "anger:2;joy:1", 1 for what is left out.
    """
    text = parse_pairs(settings.class_weights, "class_weights").get(name)
    if text is None:
        return None
    if text == "auto":
        return tuple(balanced)
    given = parse_pairs(text.replace(":", "=").replace(";", ","), f"class_weights of {name}")
    if unknown := [label for label in given if label not in labels]:
        raise InputError(
            f"class_weights: {name} has no label {unknown[0]!r}; it has {', '.join(labels)}"
        )
    return tuple(
        parse_number(given.get(label, "1"), f"class_weights of {name}") for label in labels
    )
