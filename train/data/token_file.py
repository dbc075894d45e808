"""Plain text -> token ids in a nameless file, which the system keeps in memory as far as it can.

What stays in the program's own memory is eight bytes or so for each number that a document has.

Shapes: T tokens of the text, U documents, V vocabulary.
"""

import hashlib
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.batching import windows
from minibert.files import InputError
from minibert.tokenizer import Tokenizer
from train.data.documents import Line, read_lines


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
    size = tokenizer.vocab_size
    dtype = np.dtype(np.uint16 if size <= 2**16 else np.uint32)
    _, separator = around(tokenizer)
    starts, lines, numbers = array("q"), array("q"), array("q")
    counts, digest, total = np.zeros(size, np.int64), hashlib.sha256(), 0
    begins = True
    try:
        with tempfile.TemporaryFile() as stream:
            for number, some in _numbered_lines(files, documents, encoding):
                texts = [line.text for line in some]
                pieces = backend.encode_batch_fast(texts, add_special_tokens=False)
                found: list[int] = []
                for line, encoded in zip(some, pieces, strict=True):
                    begins |= line.is_first
                    if begins and encoded.ids:  # a document of invisible characters is none
                        begins = False
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
            for some in windows(read_lines(file, documents, encoding), _characters):
                yield number, some
                bar.update(sum(len(line.text.encode()) for line in some))


def _characters(line: Line) -> int:
    return len(line.text)


def around(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of [CLS] and [SEP], by whatever names the vocabulary has them. Raises InputError for
    a tokenizer that puts others around texts."""
    around = tokenizer.backend.encode("")
    if len(around.ids) != 2:
        raise InputError(
            "plain text needs a tokenizer that puts [CLS] before a text and [SEP] after it; this "
            f"one puts {' '.join(around.tokens)}"
        )
    cls, sep = around.ids
    return cls, sep
