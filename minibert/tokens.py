"""A tokenized text, and what a limit has cut off."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from minibert.files import InputError

Truncation = Literal["warn", "error", "silent"]


@dataclass(frozen=True)
class Tokens:
    """One tokenized text, [CLS] and [SEP] included."""

    ids: list[int]
    type_ids: list[int]  # 0; 1 for the second text of a pair and its [SEP]
    words: list[int | None]  # the word that each token is a piece of; None for [CLS] and [SEP]
    lost: int  # how many tokens were cut off
    # where each token stands in its text, (start, end) in characters; only windows know
    offsets: list[tuple[int, int]] | None = None

    @cached_property
    def first_pieces(self) -> dict[int, int]:
        """Each word that has a piece -> the position of its first one."""
        first: dict[int, int] = {}
        for position, word in enumerate(self.words):
            if word is not None:
                first.setdefault(word, position)
        return first


class TruncationWarning(UserWarning):
    """Some texts were longer than the limit, and their ends were cut off.

    truncated: the count of them, if `Truncated` has given the warning.
    """

    truncated: "Truncated | None" = None


@dataclass
class Truncated:
    """Counts the texts that a limit has cut off, and does what `truncation` says of them.

    Raises InputError for another word than "warn", "error" and "silent".
    """

    limit: int | None  # in tokens
    truncation: Truncation
    first: int = 0  # the number of the first text
    texts: int = 0  # that were cut off
    tokens: int = 0  # that they lost
    longest: tuple[int, str] = (0, "")  # its tokens before it was cut, and which text it is

    def __post_init__(self) -> None:
        if self.truncation not in get_args(Truncation):
            words = ", ".join(get_args(Truncation))
            raise InputError(f"truncation {self.truncation!r} is not one of {words}")

    def add(self, texts: Sequence[Tokens], number: int = 0) -> None:
        """Count some more texts, the first of which has that number. Raises InputError if one was
        cut off and `truncation` is "error"."""
        for i, text in enumerate(texts, start=number):
            if text.lost:
                self.texts += 1
                self.tokens += text.lost
                length = len(text.ids) + text.lost
                if length > self.longest[0]:
                    self.longest = length, f"number {i} (counted from 0)"
        if self.texts and self.truncation == "error":
            raise InputError(self.message(number + len(texts)))

    def join(self, other: "Truncated") -> None:
        """Count what another has counted of the same texts."""
        self.texts += other.texts
        self.tokens += other.tokens
        self.longest = max(self.longest, other.longest, key=lambda found: found[0])

    def warn(self, end: int) -> None:
        """Give a TruncationWarning, if texts were cut off and `truncation` is "warn". end: the
        number that the next text would have."""
        if self.texts and self.truncation == "warn":
            message = f"{self.message(end)}; {self.tokens} tokens were cut off"
            warning = TruncationWarning(message)
            warning.truncated = self
            warnings.warn(warning, stacklevel=3)

    def message(self, end: int) -> str:
        return (
            f"{self.texts} of {end - self.first} texts are longer than {self.limit} tokens: "
            f"the longest is {self.longest[1]} with {self.longest[0]}"
        )
