"""An example and a data set: what every format is read into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# each split's names in files and on the Hub
SPLITS = {"train": ("train",), "dev": ("dev", "val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Example:
    """One text, or a pair of texts, with the labels that its source gives.

    labels: each field's value as it was read: a text, a number, a tuple with a tag for each word,
    or what else a format reads. What a value means is known to the kinds of tasks alone.
    """

    text: str
    labels: Mapping[str, Any]
    where: str  # "file, line 7": for messages
    words: tuple[str, ...] | None = None  # where the labels are of words
    second: str | None = None  # the other text of a pair


@dataclass(frozen=True)
class DataSet:
    """One source of examples, split."""

    name: str
    splits: Mapping[str, Sequence[Example]]  # "train", "dev", "test"
