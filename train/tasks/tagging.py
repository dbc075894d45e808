"""Entities of a text, written as tags of its words."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from minibert.files import InputError
from train.batches import Item
from train.data.examples import Example
from train.settings import Settings
from train.span_metrics import entity_scores
from train.tags import BIO, OUTSIDE, SCHEMES, Entity, best_valid, recognise, types_of
from train.tasks.records import Metric, Prediction
from train.tasks.words import WordTagging


class TokenTagging(WordTagging):
    """Entities of several words, written as tags.

    scheme: a key of `train.tags.SCHEMES`. valid_tags: predict the most probable sequence that the
    scheme allows, in place of the most probable tag of each word.
    """

    kind = "tokens"
    described: ClassVar = {**WordTagging.described, "scheme": str, "valid_tags": bool}
    metrics = (
        Metric("f1", is_shown=True, is_percent=True),
        Metric("precision", is_percent=True),
        Metric("recall", is_percent=True),
        Metric("entities_cut_off", sign=-1),
    )

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        scheme: str = BIO.name,
        valid_tags: bool = False,
    ) -> None:
        super().__init__(name, labels)
        self.scheme = SCHEMES[scheme]
        if odd := [label for label in labels if not self.scheme.reads(label)]:
            raise InputError(f"{odd[0]!r:.80} is no tag of {scheme}")
        self.valid_tags = valid_tags

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        texts = [example.labels[name] for example in examples]
        if not all(isinstance(tags, tuple) for tags in texts):
            return False
        try:
            return recognise(texts) is not None
        except ValueError:  # which `from_examples` tells the user of
            return True

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "TokenTagging":
        texts = [example.labels[name] for example in examples]
        try:
            scheme = recognise(texts)
        except ValueError as error:
            odd = str(error)
            where = next(e.where for e in examples if odd in e.labels[name])
            raise InputError(
                f"{where}: the {name} tag {odd!r} is not BIO: O, B-type or I-type. Convert the "
                "tags, or leave the task out with --tasks"
            ) from error
        assert scheme is not None  # `fits`
        labels = scheme.labels({tag for tags in texts for tag in tags})
        return cls(name, labels, scheme.name, settings.valid_tags)

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "TokenTagging | None":
        """The scheme is that of the labels, each of which can be a text's only tag."""
        if architecture != "BertForTokenClassification":
            return None
        try:
            scheme = recognise([(label,) for label in labels])
        except ValueError:
            return None
        return None if scheme is None else cls("tags", labels, scheme.name)

    @classmethod
    def clean(cls, name: str, values: Sequence[Any]) -> tuple[Sequence[Any], str]:
        """Of BIO tags, every I- that continues nothing of its type becomes the B- that it means.

        Tags that break the rules of another scheme stay, and are counted.
        """
        try:
            scheme = recognise(values)
        except ValueError:
            return values, ""
        if scheme is None:
            return values, ""
        if scheme.tells_ends:
            outside = sum(
                sum(tag != OUTSIDE for tag in tags)
                - sum(end - start for _, start, end in scheme.entities(tags))
                for tags in values
            )
            told = f"{outside} {name} tags are part of no whole entity by {scheme.name}"
            return values, told if outside else ""
        if not scheme.name.endswith(BIO.name):
            return values, ""
        cleaned = [tuple(scheme.cleaned(tags)) for tags in values]
        count = sum(
            old != new
            for tags, others in zip(values, cleaned, strict=True)
            for old, new in zip(tags, others, strict=True)
        )
        told = f"{name}: {count} tags I- that continued nothing were read as B-" if count else ""
        return cleaned, told

    @classmethod
    def classes(cls, value: Any) -> Collection[str]:
        return types_of(value)

    def unknown(self, example: Example) -> Collection[str]:
        return types_of(example.labels[self.name]) - types_of(self.labels)

    def check(self, example: Example) -> None:
        tags = example.labels[self.name]
        if not isinstance(tags, tuple):
            super().check(example)
        for tag in tags:
            if not self.scheme.reads(tag):
                raise InputError(
                    f"{example.where}: the {self.name} tag {tag!r} is not {self.scheme.name}, as "
                    "the tags of the training data are"
                )

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"scheme": self.scheme.name, "valid_tags": self.valid_tags}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "TokenTagging":
        # the first versions knew BIO only, and did not say so
        scheme = description.get("scheme", BIO.name)
        labels = tuple(description["labels"])
        return cls(description["name"], labels, scheme, description.get("valid_tags", False))

    def summary(self) -> str:
        return f"{self.name} ({self.kind}, {len(self.labels)} labels, {self.scheme.name})"

    def choose(self, logits: Tensor, item: Item) -> Sequence[int]:
        if not self.valid_tags:
            return super().choose(logits, item)
        seen = list(self.first_pieces(item))
        outside = self.numbers[OUTSIDE]
        # words that the model does not see are O, for what stands beside them too
        whole = logits.new_full((len(item.example.words or ()), len(self.labels)), -1e9)  # (T, C)
        whole[:, outside] = 0
        whole[seen] = logits
        path = best_valid(whole, self.labels, self.scheme)
        return [path[word] for word in seen]

    def marked(self, tags: Sequence[str]) -> set[Entity]:
        # where there are no types, an entity is of what the task looks for
        return {(kind or self.name, i, end) for kind, i, end in self.scheme.entities(tags)}

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold, predicted = self.both_marked(items, predictions)
        precision, recall, f1 = entity_scores(gold, predicted)
        cut_off = 0
        for item, entities in zip(items, gold, strict=True):
            tokens = item.tokens_of(self.name)[0]
            last = max((word for word in tokens.words if word is not None), default=-1)
            if tokens.lost:
                cut_off += sum(end > last + 1 for _, _, end in entities)
        return {"f1": f1, "precision": precision, "recall": recall, "entities_cut_off": cut_off}

    def confusions(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> list[tuple[str, str]]:
        """None: where the words differ, no right entity belongs to a predicted one."""
        return []
