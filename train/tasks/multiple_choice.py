"""Which of several texts follows a text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.heads import SentenceHead
from train import metrics
from train.batches import Batch, Input, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.tasks.records import Counterpart, Metric, Prediction
from train.tasks.targets import SentenceTask


class MultipleChoice(SentenceTask):
    """One of several choices, by cross-entropy: each is read after the text, and has one logit
    (Devlin et al. 2019, section 4.4).

    A label is the right choice's number, counted from 0: "0".
    """

    kind = "choice"
    uses_token_types = True
    metrics = (Metric("accuracy", is_shown=True, is_percent=True),)

    def __init__(self, name: str, pooling: str = "mean") -> None:
        super().__init__(name, (), pooling)

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(e.labels[name], str) and e.choices is not None for e in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "MultipleChoice":
        task = cls(name, cls.pooling_of(name, settings))
        for example in examples:
            task.check(example)
        return task

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "MultipleChoice":
        return cls(description["name"], description["pooling"])

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "MultipleChoice | None":
        return cls("choice", "pooler") if architecture == "BertForMultipleChoice" else None

    def check(self, example: Example) -> None:
        super().check(example)
        number, count = example.labels[self.name], len(example.choices or ())
        if count < 2:
            raise InputError(f"{example.where}: {count} choices leave nothing to choose")
        if number not in map(str, range(count)):
            raise InputError(
                f"{example.where}: {self.name} = {number!r} is no number of a choice, 0 to "
                f"{count - 1}"
            )

    def summary(self) -> str:
        return f"{self.name} ({self.kind})"

    def inputs(self, example: Example) -> tuple[Input, ...]:
        return tuple(Input(example.text, choice) for choice in example.choices or ())

    def build_head(self, config: BertConfig) -> nn.Module:
        return SentenceHead(config, 1, self.pooling)

    def targets(self, item: Item) -> Sequence[int]:
        return [int(item.example.labels[self.name])]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        """For K texts, the most choices of one being P: what others lack is impossible."""
        logits = model.heads[self.name](states, batch.layout, model.bert.pooler)  # (B, 1)
        of_texts = logits[:, 0][positions.clamp(min=0)]  # (B, 1) -> (K, P)
        return of_texts.masked_fill(positions < 0, -math.inf)  # (K, P)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="sum")

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        choices = item.tokens_of(self.name)
        probabilities = logits[0, : len(choices)].softmax(-1).tolist()
        best = max(range(len(choices)), key=probabilities.__getitem__)
        scores = {str(number): probability for number, probability in enumerate(probabilities)}
        return Prediction(str(best), probabilities[best], scores)

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold = [item.example.labels[self.name] for item in items]
        return {"accuracy": metrics.accuracy(gold, [p.label for p in predictions])}

    def error(self, gold: str, prediction: Prediction) -> float:
        """What the right choice lacks of a probability of 1, if another is predicted."""
        return 0.0 if gold == prediction.label else 1 - (prediction.scores or {})[gold]

    def readable(self, label: str, example: Example) -> str:
        """The choice's text."""
        return (example.choices or ())[int(label)]

    def as_record(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        return super().as_record(prediction, example) | {
            "choice": self.readable(prediction.label, example)
        }

    def as_text(self, prediction: Prediction, example: Example) -> str:
        choice = self.readable(prediction.label, example)
        return f"{prediction.label}: {choice} ({prediction.probability:.2f})"

    def beside_gold(self, gold: str, prediction: Prediction) -> dict[str, Any]:
        return super().beside_gold(gold, prediction) | {"probability": prediction.probability}

    def counterpart(self) -> Counterpart | None:
        if not self.uses_pooler:
            return None
        return Counterpart("BertForMultipleChoice", "multiple-choice", (self.name,))
