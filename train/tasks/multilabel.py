"""Several classes for a text, or none."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.heads import SentenceHead
from train import metrics
from train.batches import Batch, Item
from train.data.examples import Example
from train.metrics import Figures
from train.parse import parse_number
from train.settings import Settings
from train.tasks.classification import parse_class_weights
from train.tasks.records import Counterpart, Metric, Prediction
from train.tasks.targets import SentenceTask


class MultilabelClassification(SentenceTask):
    """Any number of labels for a text: of each, whether the text has it, by binary cross-entropy.

    class_weights: a factor for each label's loss where a text has it; "auto" makes having a label
    count as much as not having it, negatives / positives. thresholds: a label is predicted if its
    probability is at least this. is_tuned: whether the thresholds are chosen on dev.
    """

    kind = "multilabel"
    described: ClassVar = {**SentenceTask.described, "thresholds": list[float]}
    takes_windows = True
    metrics = (
        Metric("micro_f1", is_shown=True, is_percent=True),
        Metric("macro_f1", is_shown=True, is_percent=True),
        Metric("samples_f1", is_percent=True),
        Metric("subset_accuracy", is_shown=True, is_percent=True),
        Metric("average_precision", is_shown=True, is_percent=True),
    )
    takes_class_weights = True
    has_several = True

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        pooling: str = "mean",
        thresholds: Sequence[float] | None = None,
        class_weights: tuple[float, ...] | None = None,
        is_tuned: bool = False,
    ) -> None:
        super().__init__(name, labels, pooling)
        self.thresholds = dict(zip(labels, thresholds or [0.5] * len(labels), strict=True))
        self.class_weights = class_weights
        self.is_tuned = is_tuned

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(e.labels[name], frozenset) and e.second is None for e in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "MultilabelClassification":
        positives = Counter(label for example in examples for label in example.labels[name])
        labels = tuple(sorted(positives))
        if not labels:
            raise InputError(f"the task {name}: none of the training texts has a label")
        # A label that every text has gets a weight above 0 too.
        balanced = [max(len(examples) - positives[label], 1) / positives[label] for label in labels]
        threshold = parse_threshold(settings.threshold)
        return cls(
            name,
            labels,
            cls.pooling_of(name, settings),
            [0.5 if threshold is None else threshold] * len(labels),
            parse_class_weights(name, labels, balanced, settings),
            is_tuned=threshold is None,
        )

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"thresholds": list(self.thresholds.values())}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "MultilabelClassification":
        return cls(
            description["name"],
            tuple(description["labels"]),
            description["pooling"],
            description["thresholds"],
        )

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "MultilabelClassification | None":
        problem = config.get("problem_type")
        each_alone = problem is None and len(labels) > 1 and config["activation_fn"] == "Sigmoid"
        if architecture != "BertForSequenceClassification":
            return None
        if problem != "multi_label_classification" and not each_alone:
            return None
        task = cls("labels", labels, "pooler")
        task.reads_both = True
        return task

    @classmethod
    def classes(cls, value: Any) -> Collection[str]:
        return value

    def build_head(self, config: BertConfig) -> nn.Module:
        return SentenceHead(config, len(self.labels), self.pooling)

    def targets(self, item: Item) -> Sequence[list[float]]:
        """A text's one target: 1 for each label that it has, 0 for the others."""
        gold = item.example.labels[self.name]
        return [[float(label in gold) for label in self.labels]]

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The losses of all labels of all texts, summed: (K, C), (K, C) -> ()."""
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        return F.binary_cross_entropy_with_logits(
            logits, targets.to(logits), pos_weight=weights, reduction="sum"
        )

    def count(self, batch: Batch) -> float:
        """Texts times labels: as the mean of PyTorch and `transformers` divides, with or without
        weights."""
        targets = batch.targets.get(self.name)
        return 0.0 if targets is None else float(targets.numel())

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        probabilities = logits[0].sigmoid()  # (C)
        scores = dict(zip(self.labels, probabilities.tolist(), strict=True))
        return Prediction(self._chosen(scores), scores=scores)

    def _chosen(self, scores: Mapping[str, float]) -> frozenset[str]:
        """The labels whose probability reaches their threshold."""
        return frozenset(label for label, p in scores.items() if p >= self.thresholds[label])

    def tune(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Prediction]:
        """Choose each label's threshold: the one whose F1 on these items is the highest."""
        if not self.is_tuned:
            return predictions
        for label in self.labels:
            has_it = [label in item.example.labels[self.name] for item in items]
            self.thresholds[label] = metrics.best_threshold(has_it, _scores(predictions, label))
        return [replace(p, label=self._chosen(p.scores or {})) for p in predictions]

    def _labels(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> tuple[list[frozenset[str]], list[frozenset[str]]]:
        gold = [item.example.labels[self.name] for item in items]
        return gold, [prediction.label for prediction in predictions]

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold, predicted = self._labels(items, predictions)
        of_labels = self.per_label(items, predictions)
        precisions = [
            metrics.average_precision([label in own for own in gold], _scores(predictions, label))
            for label in of_labels
        ]
        return {
            "micro_f1": metrics.micro_f1(gold, predicted),
            "macro_f1": metrics.mean([figures["f1"] for figures in of_labels.values()]),
            "samples_f1": metrics.samples_f1(gold, predicted),
            "subset_accuracy": metrics.accuracy(gold, predicted),
            "average_precision": metrics.mean(precisions),
        }

    def error(self, gold: Any, prediction: Prediction) -> float:
        """How sure the wrong decisions were, summed over the labels."""
        scores = prediction.scores or {}
        missed = sum(1 - scores.get(label, 0.0) for label in gold - prediction.label)
        return missed + sum(scores.get(label, 1.0) for label in prediction.label - gold)

    def per_label(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Figures:
        return metrics.per_label_of_sets(*self._labels(items, predictions), self.labels)

    def confidences(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> list[tuple[float, bool]]:
        """Of each label of each text, how sure it was that the text has it, or has it not."""
        return [
            (p if label in predicted else 1 - p, (label in predicted) == (label in gold))
            for gold, predicted, scores in zip(
                *self._labels(items, predictions),
                (p.scores or {} for p in predictions),
                strict=True,
            )
            for label, p in scores.items()
        ]

    def readable(self, label: Any, example: Example) -> str:
        return ", ".join(sorted(label)) or "none"

    def _with_probabilities(self, prediction: Prediction) -> list[tuple[str, float]]:
        """The predicted labels, the surest first."""
        found = [(label, (prediction.scores or {})[label]) for label in prediction.label]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def as_record(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        found = self._with_probabilities(prediction)
        labels = [{"label": label, "probability": p} for label, p in found]
        return {"labels": labels, "scores": prediction.scores}

    def as_text(self, prediction: Prediction, example: Example) -> str:
        found = self._with_probabilities(prediction)
        return ", ".join(f"{label} ({p:.2f})" for label, p in found) or "none"

    def beside_gold(self, gold: Any, prediction: Prediction) -> dict[str, Any]:
        return {"gold": sorted(gold), "predicted": sorted(prediction.label)}

    def counterpart(self) -> Counterpart | None:
        if not self.uses_pooler:
            return None
        return Counterpart(
            "BertForSequenceClassification",
            "text-classification",
            self.labels,
            "multi_label_classification",
        )


def parse_threshold(text: str) -> float | None:
    """A probability between 0 and 1, or None for "best". Raises InputError."""
    if text == "best":
        return None
    threshold = parse_number(text, "threshold")
    if not 0 < threshold < 1:
        raise InputError(f"threshold = {text!r}: must be a number between 0 and 1, or best")
    return threshold


def _scores(predictions: Sequence[Prediction], label: str) -> list[float]:
    """The probability of a label in each prediction: 0 for one that train lacks."""
    return [(prediction.scores or {}).get(label, 0.0) for prediction in predictions]
