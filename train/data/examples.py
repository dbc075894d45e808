"""An example and a data set: what every format is read into."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

# each split's names in files and on the Hub
SPLITS = {"train": ("train",), "dev": ("dev", "val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Example:
    """One text, or a pair of texts, with the labels that its source gives.

    labels: each field's value as it was read: a text, a number, a tuple with a tag for each word, a
    frozenset of several labels, the Answers to a question, the Negatives of an anchor, a Query or
    Document of a search, or what else a format reads. What a value means is known to the kinds of
    tasks alone.
    """

    text: str
    labels: Mapping[str, Any]
    where: str  # "file, line 7": for messages
    words: tuple[str, ...] | None = None  # where the labels are of words
    # the other text of a pair; of a question, the text that answers it; of an anchor, its positive
    second: str | None = None
    choices: tuple[str, ...] | None = None  # what may follow the text, of which one is right
    id: str | int | None = None  # the source's own name of the example

    @cached_property
    def word_spans(self) -> tuple[tuple[int, int], ...] | None:
        """Where each word stands in the text, (start, end) in characters; None if there are no
        words, or not all of them stand there in this order."""
        spans: list[tuple[int, int]] = []
        for word in self.words or ():
            start = self.text.find(word, spans[-1][1] if spans else 0)
            if start < 0:
                return None
            spans.append((start, start + len(word)))
        return tuple(spans) or None

    @property
    def content(self) -> Hashable:
        """What two copies of an example share. Questions about one text count as copies, since
        their answers stand in the same words; so do the rows of one anchor, since each of them
        tells what is near to it."""
        if any(isinstance(value, Answers) for value in self.labels.values()):
            return self.second
        if any(isinstance(value, Negatives) for value in self.labels.values()):
            return self.text
        return self.text, self.second, self.choices


@dataclass(frozen=True)
class Answers:
    """The right answers to a question: slices of the example's second text. None of them, if it has
    no answer there (as SQuAD 2.0 has)."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]  # in characters


@dataclass(frozen=True)
class Negatives:
    """What says that an example's text and its second text are an anchor and its positive, which
    belong together; and texts that do not belong to the anchor, if some are known."""

    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """What says that an example's text is a query, and which documents it should find: their names,
    each with its grade of relevance, above 0."""

    relevance: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Document:
    """What says that an example's text is a document that queries search."""

    name: str


@dataclass(frozen=True)
class DataSet:
    """One source of examples, split. Data without training examples is only measured."""

    name: str
    splits: Mapping[str, Sequence[Example]]  # "train", "dev", "test"
    label_names: tuple[str, ...] = ()  # of the numbers 0, 1 ..., where a file beside the data says


def names_in(value: Any) -> Collection[str]:
    """The names that a label holds: of a class, of several labels, or the tags of words."""
    if isinstance(value, str):
        return (value,)
    return value if isinstance(value, tuple | frozenset) else ()


def examples_of(*sets: DataSet) -> Iterator[Example]:
    """All examples of all splits."""
    return (example for data in sets for split in data.splits.values() for example in split)


def fields_of(*sets: DataSet) -> list[str]:
    """The names of all labels, in the order in which they come."""
    return list(dict.fromkeys(name for example in examples_of(*sets) for name in example.labels))


def examples_by_label(sets: Sequence[DataSet]) -> dict[str, list[Example]]:
    """The examples that tell what each label means: those of train; of a label that is only
    measured, those of dev."""
    found: dict[str, list[Example]] = {}
    for split in ("train", "dev"):
        known = set(found)
        for data in sets:
            if split == "train" or not data.splits["train"]:
                for example in data.splits.get(split, ()):
                    for name in example.labels:
                        if name not in known:
                            found.setdefault(name, []).append(example)
    return found


def mapped(data: DataSet, change: Callable[[Example], Example]) -> DataSet:
    """A data set with every example changed."""
    splits = {split: [change(e) for e in examples] for split, examples in data.splits.items()}
    return replace(data, splits=splits)
