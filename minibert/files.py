"""Reading what comes from outside, and writing so that nothing is lost."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something that came from outside (a file, an argument, a text) cannot be used as it is.

    The message is written for a person: what was wrong, where (file, key, line, value), and what to do. The command
    line prints it alone, without a traceback; every other exception that escapes is a bug of ours.
    """


def read_text(file: Path) -> str:
    """A UTF-8 text file's content. Raises InputError, naming the file, if it cannot be read or is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{file}, line {line}: not UTF-8 text ({error.reason})") from error


def read_json(file: Path) -> Any:
    """A JSON file's content. Raises InputError, naming file and line, if it is not JSON."""
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from error


def sha256(file: Path) -> str:
    """A file's SHA-256, in hexadecimal digits. Raises InputError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; it takes the file's place, at once, when the block ends without an error.

    Whatever goes wrong, the old file is whole. Raises InputError if the disk refuses (full, read-only …).
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, file)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}; what was there is unchanged") from error
    finally:
        beside.unlink(missing_ok=True)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file for people: indented, keys in the order given."""
    with replacing(file) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
