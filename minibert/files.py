"""Reading and writing files: errors name the place, and what was there before is never lost."""

import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something that came from outside (a file, an argument, a text) cannot be used as it is.

    The message is written for a person: what was wrong, where (file, key, line, value), and what to
    do. The command line prints it without a traceback. Any other exception that escapes is a bug of
    ours. Characters that would control a terminal are written as escapes, and of a very long
    message only its beginning and its end are kept.
    """

    def __init__(self, message: str) -> None:
        if len(message) > 2 * LONGEST:
            message = f"{message[:LONGEST]} [...] {message[-LONGEST:]}"
        super().__init__(escaped(message))


LONGEST = 500  # characters of a message, at its beginning and at its end

# Control characters but the line feed, Unicode's marks of direction and other ends of lines, and
# halves of surrogate pairs.
CONTROLS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escaped(text: str) -> str:
    """A text for a terminal: what would control it, such as "\\x1b[2J", is written as an escape.
    Line feeds stay."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The same, with line feeds as escapes too."""
    return escaped(text).replace("\n", "\\n")


def json_text(content: Any, indent: int | None = None) -> str:
    """JSON for a terminal, on one line if there is no indent. What would control the terminal is an
    escape, which means the same. Raises ValueError for a number that is not finite."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def check_regular(file: Path) -> None:
    """Raise InputError for a pipe, which would let a reader wait, and for a device, which may never
    end. What is missing, or is a folder, is told of by the reader itself."""
    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        raise InputError(f"{file} is a pipe or a device, and no regular file")


def read_bytes(file: Path) -> bytes:
    """The content of a regular file. Raises InputError, naming the file, if it cannot be read."""
    check_regular(file)
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', error)}") from error


def read_text(file: Path) -> str:
    """The content of a UTF-8 text file. Raises InputError, naming the file, if it cannot be read or
    is not UTF-8."""
    return decode(read_bytes(file), str(file))


def decode(content: bytes, source: str, first_line: int = 1) -> str:
    """UTF-8 bytes as text. Raises InputError, naming their source and the line, if they are not
    UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + first_line
        raise InputError(f"{source}, line {line}: not UTF-8 text ({error.reason})") from error


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends. A line ends with \\n or \\r\\n and nothing else.

    `str.splitlines` also cuts at \\x0b, \\x1c, U+2028 and others, which occur inside real texts and
    vocabularies.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text file, without the byte order mark that some editors put first."""
    return split_lines(read_text(file).removeprefix("\ufeff"))


def read_json(file: Path) -> Any:
    """The content of a JSON file. Raises InputError, naming file and line, if it is not JSON, or
    holds half a surrogate pair."""
    text = read_text(file)
    try:
        content = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except UnicodeEncodeError as error:
        raise InputError(
            f"{file}: not text (it has half a surrogate pair, which is no character)"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of nested brackets
        raise InputError(f"{file}: not JSON that can be read ({error})") from error


def parse_json(text: str, where: str) -> Any:
    """The value that JSON text holds. Raises InputError, saying where, if it is none."""
    try:
        value = json.loads(text)
        if "\\u" in text:  # an escape can write half of a pair
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise InputError(
            f"{where}{line}: not JSON ({error.msg} at character {error.colno - 1})"
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds half a surrogate pair, which is no character") from error
    # a number of thousands of digits, brackets thousands deep
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON that can be read ({error})") from error
    return value


def check_finite(content: Any, where: object) -> None:
    """Raise InputError for a number that is not finite in what will be written as JSON again.
    Python reads NaN and infinities, which JSON has not."""
    try:
        json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{where}: holds NaN or an infinite number, which is no JSON") from error


def read_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file that must be an object. Raises InputError, naming the file, if it
    is not."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must hold a JSON object, not {type(content).__name__}")
    return content


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises InputError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


STAGING = re.compile(r"\.model\.[0-9]+\.[0-9]+\.tmp")  # of `replacing_model`


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """In this block, an OSError becomes an InputError: the target cannot be written."""
    if "\0" in str(target):
        raise InputError(f"cannot write {str(target)!r}: a file's name has no NUL in it")
    try:
        yield
    except OSError as error:
        # Those who save a model need not know where it is written first.
        place = Path(*(part for part in target.parts if not STAGING.fullmatch(part)))
        raise InputError(
            f"cannot write {place}: {error.strerror or error}; what was there is unchanged"
        ) from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to. When the block ends without an error, it takes the file's
    place at once.

    If anything goes wrong, the old file is unchanged. After a power cut, too, there is either the
    old file or the new one. Raises InputError if the disk refuses (it is full, read-only ...).
    """
    beside = _beside(file)
    with writing(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(file)
            yield beside
            with beside.open("r+b") as stream:
                os.fsync(stream.fileno())
            os.replace(beside, file)
        finally:
            with suppress(OSError):  # if the folder could not be made, there is nothing to remove
                beside.unlink(missing_ok=True)


@contextmanager
def replacing_model(folder: Path) -> Iterator[Path]:
    """An empty folder to write a model's files to. When the block ends without an error, they are
    moved to `folder`.

    Until then the old files there are unchanged, however the process ends. The files are moved one
    by one, but those of two models are never taken for one: config.json, without which no model
    opens, is removed before the first and moved after the last. So a process that is killed in
    between, which takes milliseconds, leaves a folder that is refused until it is saved again.
    Raises InputError if the disk refuses.
    """
    beside = _beside(folder / "model")
    with writing(folder):
        try:
            beside.mkdir(parents=True)
            remove_leftovers(folder / "model")
            yield beside
            new = [path.relative_to(beside) for path in beside.rglob("*") if path.is_file()]
            for path in new:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                if (folder / path).is_dir():
                    raise OSError(f"{path} is a folder there")
            (folder / "config.json").unlink(missing_ok=True)
            for path in sorted(new, key=Path("config.json").__eq__):  # it is the last
                os.replace(beside / path, folder / path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _beside(target: Path) -> Path:
    """Where this thread writes what will take the target's place."""
    return target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def remove_leftovers(target: Path) -> None:
    """Remove what processes that have died left half written beside a target. (On Windows nothing
    is removed, since Python cannot ask there whether a process lives.)"""
    for path in target.parent.glob(f".{escape(target.name)}.*.tmp"):
        number = re.search(r"\.([0-9]{1,9})(\.[0-9]+)?\.tmp$", path.name)
        if number is None or sys.platform == "win32":
            continue
        try:
            os.kill(int(number[1]), 0)  # sends nothing
        except ProcessLookupError:
            remove(path)
        except PermissionError:  # it lives, and is somebody else's
            pass


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, as far as the disk lets us."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_text(file: Path, text: str) -> None:
    """Write a UTF-8 text file. Its lines end with \\n on every system."""
    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file for people: indented, keys in the order given. Raises ValueError for a
    number that is not finite, which JSON has none of."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def inside(folder: Path, path: str, file: Path) -> Path:
    """The folder at a path that `file` names. Raises InputError if there is none, or if it is
    outside of `folder`."""
    try:
        inner = Path(os.path.realpath(folder / path))
        outside = not inner.is_relative_to(os.path.realpath(folder))
    except ValueError:  # a NUL or a lone surrogate, which no path can have
        outside = True
    if outside:
        raise InputError(f"{file}: the path {path!r:.200} leads out of the folder")
    if not os.path.isdir(inner):  # answers False to odd paths, for which Path.is_dir raises
        raise InputError(f"{file}: the path {path!r:.200} is no folder")
    return inner
