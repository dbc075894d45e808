"""Texts to work on: checked, or read a line at a time from a file or standard input."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import UnsupportedOperation
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from minibert.files import InputError, decode


def lazy_lines(stream: BinaryIO, source: str) -> Iterator[str]:
    """The lines of a file as `read_lines` gives them, but read one at a time. The file is closed at
    its end. Raises InputError, naming the line, for what is not UTF-8; and at the end, if the file
    has changed since the beginning."""
    try:
        with stream:
            before = _version(stream)
            for number, line in enumerate(stream, start=1):
                if line.endswith(b"\n"):
                    line = line[:-1].removesuffix(b"\r")
                text = decode(line, source, number)
                yield text.removeprefix("\ufeff") if number == 1 else text
            if _version(stream) != before:
                raise InputError(f"{source} was changed while it was read")
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error


def _version(stream: BinaryIO) -> tuple[int, int] | None:
    """The size of an open file, and when it was last written to; None for a pipe, say."""
    try:
        facts = os.fstat(stream.fileno())
    except UnsupportedOperation:  # bytes in memory
        return None
    return (facts.st_size, facts.st_mtime_ns) if S_ISREG(facts.st_mode) else None


def lines_of(file: str) -> Iterator[str]:
    """The lines of a file, or of standard input ("-"), as `lazy_lines` gives them. Raises
    InputError at once if it cannot be opened."""
    if file == "-":
        if sys.stdin is None:
            raise InputError("cannot read standard input: it is closed")
        return lazy_lines(sys.stdin.buffer, "standard input")
    try:
        return lazy_lines(open(file, "rb"), file)  # closed when it has been read
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', error)}") from error


def is_input_piped() -> bool:
    """Whether standard input is open, and no terminal, which would wait for somebody to type."""
    return sys.stdin is not None and not sys.stdin.isatty()


def lazy_texts(texts: list[str], file: str | None) -> Iterator[str]:
    """The texts that a command works on: its arguments; or the lines of a file; or those of
    standard input (nothing, or "-" for either).

    Raises InputError for arguments and a file at once, and if nothing is given and standard input
    is not piped; and later, when a line is read that is not UTF-8.
    """
    if texts and file is not None:
        raise InputError("give texts as arguments or as --input, not both")
    if texts and texts != ["-"]:
        return iter(texts)
    if not texts and file is None and not is_input_piped():
        raise InputError(
            "no texts: give them as arguments, as --input FILE (one a line), or on standard input"
        )
    return lines_of(file or "-")


def read_texts(texts: list[str], file: str | None) -> list[str]:
    """The texts of `lazy_texts` as a list."""
    return list(lazy_texts(texts, file))


def count_lines(file: Path) -> int:
    """How many lines a file has, in flat memory. Raises InputError if it cannot be read."""
    count, block = 0, b"\n"
    try:
        with file.open("rb") as stream:
            while more := stream.read(2**20):
                count, block = count + more.count(b"\n"), more
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    return count + (not block.endswith(b"\n"))


def count_texts(texts: list[str], file: str | None) -> int | None:
    """How many texts `lazy_texts` gives, if that is known before they are read."""
    if texts and texts != ["-"]:
        return len(texts)
    return count_lines(Path(file)) if file is not None and os.path.isfile(file) else None


def list_of_texts(texts: object) -> list[str]:
    """Texts that a caller gives, as a list: one str, or what holds several in an order.

    Raises InputError, saying what to pass, for a table, a dict, a set, bytes and what is no text.
    """
    if isinstance(texts, str):
        return [check_text(texts, "the text")]
    advice = None
    if getattr(texts, "ndim", 1) != 1:  # an array, or a DataFrame, which would give its columns
        advice = "an array must have one dimension; of a table, pass one column: table['text']"
    elif isinstance(texts, Mapping):
        advice = "pass its values: list(texts.values())"
    elif isinstance(texts, set | frozenset):
        advice = "it has no order, so pass a list of it"
    elif isinstance(texts, bytes | bytearray):
        advice = "decode it: texts.decode()"
    elif not isinstance(texts, Iterable):
        advice = "wrap what you have in a list"
    if advice is not None:
        kind = type(texts).__name__
        raise InputError(f"texts must be a list of str, or one str, not {kind}: {advice}")
    several = list(texts)  # type: ignore[call-overload]
    check_texts(several)
    return several


def check_texts(texts: Sequence[str], where: str = "") -> None:
    """`check_text` for each text. where: put before "text number ..."."""
    if isinstance(texts, str):  # whose characters would be taken for the texts
        raise InputError(f"a list of texts is read here, not one text: {texts!r:.80}")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.isascii():
            check_text(text, f"{where}text number {i} (counted from 0)")


def check_text(text: str, name: str) -> str:
    """The text. Raises InputError, with the text's name, for what is no text."""
    if not isinstance(text, str):
        raise InputError(f"{name} is of type {type(text).__name__}, not str: {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds half a surrogate pair, which is no character") from error
    return text
