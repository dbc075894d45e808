"""A tag for each word of a text."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from minibert.files import InputError
from minibert.heads import TokenHead
from minibert.model import BertConfig
from train import metrics
from train.batches import Batch, Input, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.tasks.base import Counterpart, Metric, Prediction
from train.tasks.targets import TargetTask

BIO = re.compile("O|[BI]-.+")  # outside; begins an entity of a type, or is inside one


class TokenTagging(TargetTask):
    """A BIO tag for each word, by cross-entropy.

    A word's first piece is labelled and predicted; its other pieces carry no loss (Devlin et al.
    2019, section 5.3). A word without a piece, or cut off, is predicted O and still counted in the
    metrics.
    """

    kind = "tokens"
    metrics = (
        Metric("f1", is_shown=True, is_percent=True),
        Metric("precision", is_percent=True),
        Metric("recall", is_percent=True),
        Metric("entities_cut_off", sign=-1),
    )
    labels_words = True

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        super().__init__(name, labels)
        self.numbers = {label: number for number, label in enumerate(labels)}

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(example.labels[name], tuple) for example in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "TokenTagging":
        types: set[str] = set()
        for example in examples:
            for tag in example.labels[name]:
                if not BIO.fullmatch(tag):
                    raise InputError(
                        f"{example.where}: the {name} tag {tag!r} is not BIO: O, B-type or I-type. "
                        "Convert the tags, or leave the task out with --tasks"
                    )
            types.update(cls.classes(example.labels[name]))
        return cls(name, ("O", *(f"{prefix}-{kind}" for kind in sorted(types) for prefix in "BI")))

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "TokenTagging | None":
        return cls("tags", labels) if architecture == "BertForTokenClassification" else None

    @classmethod
    def clean(cls, name: str, values: Sequence[Any]) -> tuple[Sequence[Any], str]:
        """Every I- that continues nothing of its type becomes the B- that it means.

        Tags that are not BIO (parts of speech, say) stay as they are; `from_examples` refuses them.
        """
        cleaned = [
            tuple(_repaired(tags)) if all(map(BIO.fullmatch, tags)) else tags for tags in values
        ]
        count = sum(
            old != new
            for tags, others in zip(values, cleaned, strict=True)
            for old, new in zip(tags, others, strict=True)
        )
        told = f"{count} {name} tags I- that continued nothing were read as B-" if count else ""
        return cleaned, told

    @classmethod
    def classes(cls, value: Any) -> Collection[str]:
        return {tag[2:] for tag in value if tag != "O"}

    def check(self, example: Example) -> None:
        super().check(example)
        for tag in example.labels[self.name]:
            if tag not in self.numbers:
                raise InputError(
                    f"{example.where}: the {self.name} label {tag!r} does not occur in the "
                    "training data"
                )

    def inputs(self, example: Example) -> tuple[Input, ...]:
        return () if example.words is None else (Input(example.words),)

    def build_head(self, config: BertConfig) -> nn.Module:
        return TokenHead(config, len(self.labels))

    def positions(self, batch: Batch, i: int) -> Sequence[int]:
        (row,) = batch.rows_of(self.name, i)
        (tokens,) = batch.items[i].tokens_of(self.name)
        return [batch.starts[row] + position for position in tokens.first_pieces.values()]

    def targets(self, item: Item) -> Sequence[int]:
        tags = item.example.labels[self.name]
        (tokens,) = item.tokens_of(self.name)
        return [self.numbers[tags[word]] for word in tokens.first_pieces]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        return model.heads[self.name](states[positions])  # (*, D) -> (K, C)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="sum")

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        words = item.example.words or ()
        tags, probabilities = ["O"] * len(words), [1.0] * len(words)
        (tokens,) = item.tokens_of(self.name)
        best = logits.softmax(-1).max(-1)  # (K, C) -> (K)
        for word, label, probability in zip(
            tokens.first_pieces, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            tags[word], probabilities[word] = self.labels[label], probability
        return Prediction(tuple(tags), tuple(probabilities))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold = [item.example.labels[self.name] for item in items]
        predicted = [prediction.label for prediction in predictions]
        precision, recall, f1 = metrics.entity_scores(gold, predicted)
        cut_off = 0
        for item, tags in zip(items, gold, strict=True):
            (tokens,) = item.tokens_of(self.name)
            last = max((word for word in tokens.words if word is not None), default=-1)
            if tokens.lost:
                cut_off += sum(end > last + 1 for _, _, end in metrics.entities(tags))
        return {"f1": f1, "precision": precision, "recall": recall, "entities_cut_off": cut_off}

    def readable(self, label: Any, example: Example) -> str:
        """The entities with their words."""
        words = example.words or ()
        found = [f"{kind} = {' '.join(words[i:end])}" for kind, i, end in _in_order(label)]
        return "; ".join(found) or "nothing"

    def as_record(self, prediction: Prediction, example: Example) -> list[dict[str, Any]]:
        """The entities; the probability of one is that of its least sure word."""
        words, sure = example.words or (), prediction.probability
        return [
            {
                "type": kind,
                "text": " ".join(words[start:end]),
                "probability": min(sure[start:end]),
                "words": [start, end],
            }
            for kind, start, end in _in_order(prediction.label)
        ]

    def as_text(self, prediction: Prediction, example: Example) -> str:
        entities = self.as_record(prediction, example)
        shown = [f"{e['type']}: {e['text']} ({e['probability']:.2f})" for e in entities]
        return "; ".join(shown) or "none"

    def counterpart(self) -> Counterpart:
        return Counterpart("BertForTokenClassification", "token-classification", self.labels)


def _in_order(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities of a text as (type, first word, word after the last), in the text's order."""
    return sorted(metrics.entities(tags), key=lambda entity: entity[1])


def _repaired(tags: Sequence[str]) -> Iterator[str]:
    previous = "O"
    for tag in tags:
        if tag.startswith("I-") and previous[2:] != tag[2:]:
            tag = "B-" + tag[2:]
        yield tag
        previous = tag
