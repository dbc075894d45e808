"""Plain text as sequences of tokens, whatever its size.

The text is tokenized once, as a stream, into the file of token_file.py. What stays in the program's
own memory is sixteen bytes for each sequence, and as much for each document.

A sequence is filled to the limit with whole documents and the [SEP] between them, as the best of
RoBERTa's formats is ("full-sentences", Liu et al. 2019, section 4.2, arXiv:1907.11692). Segments
for next sentences stay within a document.

Shapes: U documents, Q sequences, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from minibert.files import InputError
from minibert.tokenizer import Tokenizer, Tokens
from train.batches import Item
from train.data.examples import Example
from train.data.token_file import TokenFile, around
from train.settings import Settings

# What a sequence is: text; or a first and a second segment, which follows it or is from elsewhere;
# or one text, read twice.
TextForm = Literal["sequence", "segments", "twice"]


class TextReader(Protocol):
    """What a corpus asks of the tasks that learn from it."""

    name: str

    def text_label(self, text: str, follows: bool) -> Any:
        """What an example of a text has as this task's label."""


def cut_up(
    text: TokenFile,
    tokenizer: Tokenizer,
    tasks: Sequence[TextReader],
    form: TextForm,
    settings: Settings,
    first_number: int,
) -> "Corpus":
    """The sequences of a text, as long as the tokenizer's limit allows.

    Segments, and texts that are a line each, stay within a document; what is longer than the limit
    becomes several. Segments need two tokens at least: a rest of one is left out. Raises InputError
    if next sentences have only one document, or no room.
    """
    assert tokenizer.max_length is not None  # a model has so many positions
    room = tokenizer.max_length - (3 if form == "segments" else 2)  # beside [CLS] and [SEP]
    if room < 1:
        raise InputError(f"max_length = {tokenizer.max_length}: a text needs at least 3")
    if form == "segments":
        if room < 2:
            raise InputError(f"max_length = {tokenizer.max_length}: two segments need at least 5")
        if len(text.starts) < 2:
            raise InputError(
                f"--text {text.names[0]}: next sentences need two documents; a blank line ends one"
            )
    if form == "segments" or settings.documents == "lines":
        starts, ends = _within_documents(text, room)
    else:
        starts = np.arange(0, len(text.ids), room)
        ends = np.minimum(starts + room, len(text.ids))
    if form == "segments":
        fits = ends - starts > 1
        starts, ends = starts[fits], ends[fits]
        if not len(starts):
            raise InputError(f"--text {text.names[0]}: no document has two tokens")
    return Corpus(text, starts, ends, tokenizer, tasks, form, settings.seed, first_number)


def _within_documents(text: TokenFile, room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each sequence of at most `room` tokens begins and ends: (Q), (Q)."""
    last = np.append(text.starts[1:] - 1, len(text.ids))  # where each document ends, (U)
    pieces = -(-(last - text.starts) // room)  # of each document, (U)
    document = np.repeat(np.arange(len(pieces)), pieces)  # of each sequence, (Q)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # in it, (Q)
    starts = text.starts[document] + number * room
    return starts, np.minimum(starts + room, last[document])


class Corpus(Sequence[Item]):
    """The sequences of a text, each made into an item when it is asked for.

    starts, ends: (Q). first_number: of the first item, among all of the run. In segments, the
    second one begins with a word; in half of the sequences it is from another document (Devlin et
    al. 2019, section 3.1, task 2). Which ones these are follows from the seed.
    """

    def __init__(
        self,
        text: TokenFile,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        tokenizer: Tokenizer,
        tasks: Sequence[TextReader],
        form: TextForm,
        seed: int,
        first_number: int,
    ) -> None:
        self.text, self.starts, self.ends = text, starts, ends
        self.tokenizer, self.tasks, self.form = tokenizer, tasks, form
        self.seed, self.first_number = seed, first_number
        self.span = 0, len(text.ids)  # where second segments from elsewhere are taken
        self.cls, self.sep = around(tokenizer)
        self.continues = np.zeros(len(text.counts), bool)  # whether an id goes on a word, (V)
        for token, number in tokenizer.backend.get_vocab().items():
            self.continues[number] = token.startswith("##")

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = self.text.ids[self.starts[index] : self.ends[index]]
        second, follows = None, True
        if self.form == "segments":
            first, second, follows = self._segments(index)
        tokens = self._tokens(first, second)
        text = self.tokenizer.backend.decode(first.tolist())
        other = None if second is None else self.tokenizer.backend.decode(second.tolist())
        example = Example(
            text,
            {task.name: task.text_label(text, follows) for task in self.tasks},
            self.text.where(self.starts[index]),
            second=text if self.form == "twice" else other,
        )
        parts = (tokens, tokens) if self.form == "twice" else (tokens,)
        parts_of = {task.name: tuple(range(len(parts))) for task in self.tasks}
        return Item(example, parts, self.first_number + index, parts_of)

    def token_ids(self) -> set[int]:
        """The ids that occur."""
        return {self.cls, self.sep, *np.flatnonzero(self.text.counts).tolist()}

    def lengths(self) -> list[int]:
        """How many tokens each sequence has, [CLS] and [SEP] left aside."""
        return (self.ends - self.starts).tolist()

    def part(self, first: int, last: int) -> "Corpus":
        """The sequences from `first` up to, but not including, `last`."""
        part = copy(self)
        part.starts, part.ends = self.starts[first:last], self.ends[first:last]
        part.first_number = self.first_number + first
        return part

    def split(self, at: int) -> tuple["Corpus", "Corpus"]:
        """The sequences before `at`, and the rest. Neither has a token of the other.

        Each takes second segments from its own side. So both must have two documents, and the
        border comes earlier if the rest would have one. Raises InputError for too few documents.
        """
        if self.form == "segments":
            begin = ~self.continues[self.text.ids[self.starts]]  # with a word, (Q)
            borders = np.flatnonzero(begin & (self.starts < self.text.starts[-1]))
            at = min(at, int(borders[-1])) if len(borders) else 0
            if self.starts[at] <= self.text.starts[1]:
                raise InputError(
                    f"--text {self.text.names[0]}: next sentences need two documents to learn from "
                    "and two to measure with: give more text, or a dev split"
                )
        first, rest = self.part(0, at), self.part(at, len(self))
        border = int(self.starts[at])
        first.span, rest.span = (0, border), (border, len(self.text.ids))
        return first, rest

    def _cut(self, index: int, random: np.random.Generator) -> int:
        """Where the second segment of a sequence begins: at a word in its middle half, or else at
        the word nearest to its middle."""
        ids = self.text.ids[self.starts[index] : self.ends[index]]
        words = np.flatnonzero(~self.continues[ids])
        words = words[words > 0]
        found = words[(words >= len(ids) / 4) & (words <= len(ids) * 3 / 4)]
        if len(found):
            return int(random.choice(found))
        return int(words[np.abs(words - len(ids) / 2).argmin()]) if len(words) else len(ids) // 2

    def _segments(self, index: int) -> tuple[NDArray[Any], NDArray[Any], bool]:
        """The two segments of a sequence, and whether the second follows the first."""
        random = np.random.default_rng((self.seed, self.first_number + index))
        start, end = int(self.starts[index]), int(self.ends[index])
        cut = start + self._cut(index, random)
        if follows := bool(random.random() < 0.5):
            second = self.text.ids[cut:end]
        else:
            second = self._elsewhere(self.text.document(start), end - cut, random)
        return self.text.ids[start:cut], second, follows

    def _elsewhere(self, document: int, room: int, random: np.random.Generator) -> NDArray[Any]:
        """At most `room` tokens of another document, from the beginning of a word on. Each token
        outside of `document` is as likely as any other to be looked at first."""
        ids, (low, high) = self.text.ids, self.span
        start = max(low, int(self.text.starts[document]))
        end = min(high, self.text.end(document))
        while True:
            first = low + int(random.integers(high - low - (end - start)))
            first += end - start if first >= start else 0
            found = ids[first : min(first + room, high, self.text.end(self.text.document(first)))]
            words = np.flatnonzero(~self.continues[found])
            if len(words):
                return found[words[0] :]

    def _tokens(self, first: NDArray[Any], second: NDArray[Any] | None) -> Tokens:
        """[CLS] first [SEP], or [CLS] first [SEP] second [SEP]."""
        segments = [first] if second is None else [first, second]
        ids, types = [self.cls], [0]
        for number, segment in enumerate(segments):
            ids += [*segment.tolist(), self.sep]
            types += [number] * (len(segment) + 1)
        words: list[int | None] = []
        word = -1
        for token in ids:
            if token in (self.cls, self.sep):
                words.append(None)
                continue
            if not self.continues[token] or not words or words[-1] is None:
                word += 1
            words.append(word)
        return Tokens(ids, types, words, lost=0)


def unigram_entropy(corpora: Iterable[Corpus]) -> float:
    """The entropy of the tokens' frequencies, in nats: the loss of a model that knows how frequent
    each token is, and nothing of its context."""
    counts = np.sum([corpus.text.counts for corpus in corpora], axis=0, dtype=float)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
