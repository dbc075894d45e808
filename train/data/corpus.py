"""Plain text as sequences of tokens, whatever its size.

The text is tokenized once, as a stream, into a nameless file of token ids, which the system keeps
in memory as far as it can. What stays in the program's own memory is eight bytes or so for each
sequence and document.

A sequence is filled to the limit with whole documents and the [SEP] between them, as the best of
RoBERTa's formats is ("full-sentences", Liu et al. 2019, section 4.2, arXiv:1907.11692). Segments
for next sentences stay within a document.

Shapes: T tokens of the text, U documents, Q sequences, V vocabulary.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.files import InputError
from minibert.tokenizer import Tokenizer, Tokens
from train.batches import Item
from train.data.documents import Line, read_lines
from train.data.examples import Example
from train.settings import Settings

LINES = 2048  # that are tokenized at once

# What a sequence is: text; or a first and a second segment, which follows it or is from elsewhere;
# or one text, read twice.
TextForm = Literal["sequence", "segments", "twice"]


class TextReader(Protocol):
    """What a corpus asks of the tasks that learn from it."""

    name: str

    def text_label(self, text: str, follows: bool) -> Any:
        """What an example of a text has as this task's label."""


@dataclass(frozen=True)
class TokenFile:
    """The ids of some files' documents, with [SEP] between them."""

    ids: NDArray[Any]  # uint16 or uint32, (T)
    starts: NDArray[np.int64]  # where each document begins, (U)
    lines: NDArray[np.int64]  # the line of its file in which it begins, (U)
    files: NDArray[np.int64]  # its file's number, (U)
    names: tuple[str, ...]  # the files
    counts: NDArray[np.int64]  # how often each id occurs, [SEP] left aside, (V)
    sha256: str

    def document(self, position: int) -> int:
        """The number of the document that a token is in."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def end(self, document: int) -> int:
        """Where a document ends, its [SEP] left aside."""
        is_last = document == len(self.starts) - 1
        return len(self.ids) if is_last else int(self.starts[document + 1]) - 1

    def where(self, position: int) -> str:
        """The file and line of the document that a token is in, for messages."""
        document = self.document(position)
        name = self.names[self.files[document]]
        return f"{name}, line {self.lines[document]}"


def tokenize_files(
    files: Sequence[Path], tokenizer: Tokenizer, documents: str, encoding: str
) -> TokenFile:
    """Read files of any size. Raises InputError for what cannot be read, if there are no words in
    them, and if the disk has no room."""
    backend = tokenizer.backend
    size = backend.get_vocab_size()
    dtype = np.dtype(np.uint16 if size <= 2**16 else np.uint32)
    separator = backend.get_vocab()["[SEP]"]
    starts: list[int] = []
    lines: list[int] = []
    numbers: list[int] = []
    counts, digest, total = np.zeros(size, np.int64), hashlib.sha256(), 0
    try:
        with tempfile.TemporaryFile() as stream:
            for number, some in _numbered_lines(files, documents, encoding):
                pieces = backend.encode_batch([one.text for one in some], add_special_tokens=False)
                found: list[int] = []
                for line, encoded in zip(some, pieces, strict=True):
                    if line.is_first:
                        if total + len(found):
                            found.append(separator)
                        starts.append(total + len(found))
                        lines.append(line.number)
                        numbers.append(number)
                    found += encoded.ids
                ids = np.array(found, dtype)
                counts += np.bincount(ids, minlength=size)
                digest.update(ids.tobytes())
                stream.write(ids.tobytes())
                total += len(ids)
            if total == 0:
                raise InputError(f"--text {files[0]}: there is no text in it")
            counts[separator] = 0
            stream.flush()
            whole = np.memmap(stream, dtype=dtype, mode="r", shape=(total,))
    except OSError as error:
        raise InputError(
            f"no room in {tempfile.gettempdir()} for the tokens of {files[0]} ({error.strerror}); "
            "the environment variable TMPDIR names another folder"
        ) from error
    return TokenFile(
        whole,
        np.array(starts),
        np.array(lines),
        np.array(numbers),
        tuple(map(str, files)),
        counts,
        digest.hexdigest(),
    )


def _numbered_lines(
    files: Sequence[Path], documents: str, encoding: str
) -> Iterator[tuple[int, list[Line]]]:
    """Some lines at a time, with the number of their file; a progress bar on stderr."""
    size = sum(file.stat().st_size for file in files)
    bar = tqdm(total=size, unit="B", unit_scale=True, desc="tokenizing", disable=None, leave=False)
    with bar:
        for number, file in enumerate(files):
            lines = read_lines(file, documents, encoding)
            while some := list(islice(lines, LINES)):
                yield number, some
                bar.update(sum(len(line.text) for line in some))


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
    becomes several. Raises InputError if next sentences have only one document.
    """
    assert tokenizer.max_length is not None  # a model has so many positions
    room = tokenizer.max_length - (3 if form == "segments" else 2)  # beside [CLS] and [SEP]
    if form == "segments" or settings.documents == "lines":
        starts, ends = _within_documents(text, room)
    else:
        starts = np.arange(0, len(text.ids), room)
        ends = np.minimum(starts + room, len(text.ids))
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
        vocabulary = tokenizer.backend.get_vocab()
        self.cls, self.sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self.continues = np.zeros(len(text.counts), bool)  # whether an id goes on a word, (V)
        for token, number in vocabulary.items():
            self.continues[number] = token.startswith("##")
        if form == "segments" and len(text.starts) < 2:
            raise InputError(
                f"--text {text.names[0]}: next sentences need two documents; a blank line ends one"
            )

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

    def part(self, first: int, last: int) -> "Corpus":
        """The sequences from `first` up to, but not including, `last`."""
        spans = self.starts[first:last], self.ends[first:last]
        number = self.first_number + first
        return Corpus(self.text, *spans, self.tokenizer, self.tasks, self.form, self.seed, number)

    def _cut(self, index: int, random: np.random.Generator) -> int:
        """Where the second segment of a sequence begins: at a word in its middle half, or else in
        its middle."""
        ids = self.text.ids[self.starts[index] : self.ends[index]]
        words = np.flatnonzero(~self.continues[ids])
        found = words[(words >= max(1, len(ids) // 4)) & (words <= len(ids) * 3 // 4)]
        return int(random.choice(found)) if len(found) else len(ids) // 2

    def _segments(self, index: int) -> tuple[NDArray[Any], NDArray[Any], bool]:
        """The two segments of a sequence, and whether the second follows the first."""
        random = np.random.default_rng((self.seed, index))
        start, cut = self.starts[index], self._cut(index, random)
        first = self.text.ids[start : start + cut]
        if follows := bool(random.random() < 0.5):
            return first, self.text.ids[start + cut : self.ends[index]], follows
        room = int(self.ends[index] - start) - cut
        second = self._elsewhere(self.text.document(start), room, random)
        return first, second, follows

    def _elsewhere(self, document: int, room: int, random: np.random.Generator) -> NDArray[Any]:
        """At most `room` tokens of any other document, from the beginning of a word on."""
        while True:
            start = int(random.integers(len(self.text.ids)))
            if (other := self.text.document(start)) == document:
                continue
            found = self.text.ids[start : min(start + room, self.text.end(other))]
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
    counts = np.sum([corpus.text.counts for corpus in corpora], axis=0, dtype=float)  # (V)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
