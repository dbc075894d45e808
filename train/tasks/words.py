"""A tag for each word of a text."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.heads import TokenHead
from train import metrics
from train.batches import Batch, Input, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.span_metrics import scores_by_type
from train.tags import OUTSIDE, Entity
from train.tasks.records import Counterpart, Mark, Metric, Prediction
from train.tasks.targets import TargetTask
from train.tasks.windows import best_windows


class WordTagging(TargetTask):
    """A tag for each word, such as its part of speech, by cross-entropy.

    A word's first piece is labelled and predicted; its other pieces carry no loss (Devlin et al.
    2019, section 5.3). Of a text in windows, each word is learnt and predicted once, in the window
    where its first piece has most context. A word without a piece, or cut off, is predicted O and
    still counted in the metrics.
    """

    kind = "words"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", is_shown=True, is_percent=True),
        Metric("macro_f1", is_shown=True, is_percent=True),
    )
    labels_words = True
    takes_windows = True

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        super().__init__(name, labels)
        self.numbers = {label: number for number, label in enumerate(labels)}

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(example.labels[name], tuple) for example in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "WordTagging":
        return cls(name, tuple(sorted({t for example in examples for t in example.labels[name]})))

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "WordTagging | None":
        return cls("tags", labels) if architecture == "BertForTokenClassification" else None

    @classmethod
    def classes(cls, value: Any) -> Collection[str]:
        return set(value)

    def summary(self) -> str:
        return f"{self.name} ({self.kind}, {len(self.labels)} labels, no entities)"

    def inputs(self, example: Example) -> tuple[Input, ...]:
        return () if example.words is None else (Input(example.words, overlap=self.overlap),)

    def build_head(self, config: BertConfig) -> nn.Module:
        return TokenHead(config, len(self.labels))

    def first_pieces(self, item: Item) -> dict[int, tuple[int, int]]:
        """Each word that has a piece -> the window in which it is learnt and predicted, and the
        position of its first piece there."""
        windows = item.tokens_of(self.name)
        if len(windows) == 1:
            return {word: (0, position) for word, position in windows[0].first_pieces.items()}
        first: dict[int, tuple[int, int]] = {}
        for number, position in best_windows(windows, self.overlap):
            word = windows[number].words[position]
            assert word is not None
            first.setdefault(word, (number, position))
        return first

    def positions(self, batch: Batch, i: int) -> Sequence[int]:
        starts = [batch.starts[row] for row in batch.rows_of(self.name, i)]
        pieces = self.first_pieces(batch.items[i]).values()
        return [starts[number] + position for number, position in pieces]

    def targets(self, item: Item) -> Sequence[int | None]:
        tags = item.example.labels[self.name]
        return [self.numbers.get(tags[word]) for word in self.first_pieces(item)]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        return model.heads[self.name](states[positions])  # (*, D) -> (K, C)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="sum")

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        words = item.example.words or ()
        tags, probabilities = [OUTSIDE] * len(words), [1.0] * len(words)
        seen = list(self.first_pieces(item))
        of_words = logits.softmax(-1)  # (K, C)
        for row, (word, label) in enumerate(zip(seen, self.choose(logits, item), strict=True)):
            tags[word], probabilities[word] = self.labels[label], float(of_words[row, label])
        return Prediction(tuple(tags), tuple(probabilities))

    def choose(self, logits: Tensor, item: Item) -> Sequence[int]:
        """The labels' numbers that are predicted for the words that have a piece: (K, C) -> K
        numbers."""
        return logits.argmax(-1).tolist()

    def marked(self, tags: Sequence[str]) -> set[Entity]:
        """What some tags say, each with its words."""
        return {(tag, i, i + 1) for i, tag in enumerate(tags)}

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold, predicted = zip(*self.confusions(items, predictions), strict=True)
        return {
            "accuracy": metrics.accuracy(gold, predicted),
            "macro_f1": metrics.macro_f1(gold, predicted),
        }

    def confusions(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> list[tuple[str, str]]:
        return [
            pair
            for item, prediction in zip(items, predictions, strict=True)
            for pair in zip(item.example.labels[self.name], prediction.label, strict=True)
        ]

    def per_label(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Mapping[str, Mapping[str, float]]:
        gold, predicted = self.both_marked(items, predictions)
        return scores_by_type(gold, predicted)

    def error(self, gold: Any, prediction: Prediction) -> float:
        """How many words are wrong, each as much as the model was sure of it."""
        words = zip(gold, prediction.label, prediction.probability, strict=True)
        return sum(probability for right, found, probability in words if right != found)

    def confidences(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> list[tuple[float, bool]]:
        """Of each word that the model saw."""
        return [
            (prediction.probability[word], tags[word] == prediction.label[word])
            for item, prediction in zip(items, predictions, strict=True)
            if (tags := item.example.labels[self.name])
            for word in self.first_pieces(item)
        ]

    def readable(self, label: Any, example: Example) -> str:
        """What the tags say, with its words."""
        found = [
            f"{kind} = {_slice(example, start, end)['text']}"
            for kind, start, end in self._in_order(label)
        ]
        return "; ".join(found) or "nothing"

    def marks(self, label: Any, example: Example) -> tuple[str, Sequence[Mark]] | None:
        """None too where it is not known where the words stand."""
        if (spans := example.word_spans) is None:
            return None
        found = self._in_order(label)
        return example.text, [
            Mark(k, spans[start][0], spans[end - 1][1]) for k, start, end in found
        ]

    def as_record(self, prediction: Prediction, example: Example) -> list[dict[str, Any]]:
        """What the tags say: its words' numbers, and its text as a slice of the input, from `start`
        to `end` in characters. The probability is that of the least sure word."""
        return [
            {
                "type": kind,
                **_slice(example, start, end),
                "probability": min(prediction.probability[start:end]),
                "words": [start, end],
            }
            for kind, start, end in self._in_order(prediction.label)
        ]

    def as_text(self, prediction: Prediction, example: Example) -> str:
        found = self.as_record(prediction, example)
        shown = [f"{e['type']}: {e['text']} ({e['probability']:.2f})" for e in found]
        return "; ".join(shown) or "none"

    def counterpart(self) -> Counterpart:
        return Counterpart("BertForTokenClassification", "token-classification", self.labels)

    def both_marked(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> tuple[list[set[Entity]], list[set[Entity]]]:
        """What gold and predicted tags say."""
        gold = [self.marked(item.example.labels[self.name]) for item in items]
        return gold, [self.marked(prediction.label) for prediction in predictions]

    def _in_order(self, tags: Sequence[str]) -> list[Entity]:
        return sorted(self.marked(tags), key=lambda found: found[1])


def _slice(example: Example, start: int, end: int) -> dict[str, Any]:
    """The text of some words: a slice of the input, or, where that is not known, the words with
    spaces between them."""
    if (spans := example.word_spans) is None:
        return {"text": " ".join((example.words or ())[start:end])}
    first, last = spans[start][0], spans[end - 1][1]
    return {"text": example.text[first:last], "start": first, "end": last}
