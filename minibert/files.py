"""Reading what comes from outside, and writing so that nothing is lost."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO


class InputError(ValueError):
    """Something that came from outside (a file, an argument, a text) cannot be used as it is.

    The message is written for a person: what was wrong, where (file, key, line, value), and what to
    do. The command line prints it alone, without a traceback; every other exception that escapes is
    a bug of ours.
    """


def read_text(file: Path) -> str:
    """A UTF-8 text file's content. Raises InputError, naming the file, if it cannot be read or is
    not UTF-8."""
    try:
        return decode(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def decode(content: bytes, source: str, first_line: int = 1) -> str:
    """UTF-8 bytes as text. Raises InputError, naming their source and the line, if they are
    something else."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + first_line
        raise InputError(f"{source}, line {line}: not UTF-8 text ({error.reason})") from error


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends; an end is \\n or \\r\\n and nothing else.

    `str.splitlines` also cuts at \\x0b, \\x1c, U+2028 and others, which stand inside real texts and
    vocabularies.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text file, without the byte order mark that some editors put first."""
    return split_lines(read_text(file).removeprefix("\ufeff"))


def lazy_lines(stream: BinaryIO, source: str) -> Iterator[str]:
    """The lines of `read_lines`, read one at a time from a file of any length, which is closed at
    its end."""
    try:
        with stream:
            for number, line in enumerate(stream, start=1):
                if line.endswith(b"\n"):
                    line = line[:-1].removesuffix(b"\r")
                text = decode(line, source, number)
                yield text.removeprefix("\ufeff") if number == 1 else text
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error


def lazy_texts(texts: list[str], file: str | None) -> Iterator[str]:
    """What a command works on: the texts of its arguments, else one a line of a file, else of
    standard input ("-").

    Raises InputError for both at once, and where nobody would type the texts; and as they are read,
    for what is no UTF-8 text.
    """
    if texts:
        if file is not None:
            raise InputError("give texts as arguments or as --input, not both")
        return iter(texts)
    if file is not None and file != "-":
        try:
            return lazy_lines(open(file, "rb"), file)  # closed when it has been read
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {file}: {getattr(error, 'strerror', error)}") from error
    if sys.stdin is None or (file is None and sys.stdin.isatty()):
        raise InputError(
            "no texts: give them as arguments, as --input FILE (one a line), or on standard input"
        )
    return lazy_lines(sys.stdin.buffer, "standard input")


def read_texts(texts: list[str], file: str | None) -> list[str]:
    """The same, all at once."""
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


def read_json(file: Path) -> Any:
    """A JSON file's content. Raises InputError, naming file and line, if it is not JSON."""
    text = read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from error
    # a number of thousands of digits, brackets thousands deep
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON that can be read ({error})") from error


def read_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file that must be an object. Raises InputError, naming the file, if it
    is anything else."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must hold a JSON object, not {type(content).__name__}")
    return content


def sha256(file: Path) -> str:
    """A file's SHA-256, in hexadecimal digits. Raises InputError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; it takes the file's place, at once, when the block ends
    without an error.

    Whatever goes wrong, the old file is whole. Raises InputError if the disk refuses (full,
    read-only …).
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, file)
    except OSError as error:
        raise InputError(
            f"cannot write {file}: {error.strerror or error}; what was there is unchanged"
        ) from error
    finally:
        with suppress(OSError):  # where the folder could not be made, there is nothing to remove
            beside.unlink(missing_ok=True)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file for people: indented, keys in the order given."""
    with replacing(file) as beside:
        beside.write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def write_card(file: Path, facts: Mapping[str, Any], text: str) -> None:
    """Write a model card: facts for the Hub as YAML between two lines of dashes, then Markdown for
    people."""
    # which is YAML too
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    with replacing(file) as beside:
        beside.write_text("\n".join(["---", *lines, "---", "", text.strip(), ""]), encoding="utf-8")


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """While this is open, SIGINT and SIGTERM do not end the program but make the yielded function
    true."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
