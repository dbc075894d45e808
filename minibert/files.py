"""Reading and writing files: errors name the place, and what was there before is never lost."""

import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


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


def json_line(content: Any) -> str:
    """JSON for a terminal, on one line. What would control it is written as an escape, which means
    the same. Raises ValueError for a number that is not finite."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def check_regular(file: Path) -> None:
    """Raise InputError for a pipe, which would let a reader wait, and for a device, which may never
    end. What is missing, or is a folder, is told of by the reader itself."""
    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        raise InputError(f"{file} is a pipe or a device, and no regular file")


def read_text(file: Path) -> str:
    """The content of a UTF-8 text file. Raises InputError, naming the file, if it cannot be read or
    is not UTF-8."""
    try:
        return decode(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


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
    check_regular(file)
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


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to. When the block ends without an error, it takes the file's
    place at once.

    If anything goes wrong, the old file is unchanged. Raises InputError if the disk refuses (it is
    full, read-only ...).
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
        with suppress(OSError):  # if the folder could not be made, there is nothing to remove
            beside.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a UTF-8 text file. Its lines end with \\n on every system."""
    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file for people: indented, keys in the order given. Raises ValueError for a
    number that is not finite, which JSON has none of."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes and threads from writing the same file or folder until the block ends.

    Only those are kept out that ask for the lock too. It is a lock on an open file: `.lock` in a
    folder, `.NAME.lock` beside a file. When a process ends, however it ends, the system releases
    its locks.
    Raises InputError if another process or thread holds the lock, naming the process, and if the
    lock file cannot be written.
    """
    file = target / ".lock" if target.is_dir() else target.with_name(f".{target.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = _take_lock(file)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror or error}; what was there is unchanged"
        ) from error
    if stream is None:
        raise InputError(f"{_holder(file)} is writing {target}: wait until it ends, or end it")
    with stream:
        try:
            yield
        finally:
            # Removed while it is locked: later, another process may have it. (Windows removes no
            # open file. There it stays, and is not locked.)
            with suppress(OSError):
                file.unlink()


def _take_lock(file: Path) -> BinaryIO | None:
    """The lock file, open and locked, with our process number in it; None if another holds it."""
    while True:
        stream = file.open("a+b", buffering=0)
        if not _lock(stream):
            stream.close()
            return None
        # The last holder may have removed the file after we opened it. A lock on a removed file
        # keeps nobody out: then we try again.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                stream.truncate(0)
                stream.write(str(os.getpid()).encode())
                return stream
        stream.close()


def _lock(stream: BinaryIO) -> bool:
    """Lock an open file without waiting; False if another holds the lock."""
    try:
        if sys.platform == "win32":
            stream.seek(2**20)  # only this byte is locked: those before it can be read
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # from flock, from msvcrt
        return False
    return True


def _holder(file: Path) -> str:
    """Who holds a lock file, in words; its process number may not have been written yet."""
    try:
        number = file.read_text(encoding="ascii")
    except (OSError, ValueError):
        number = ""
    return f"process {number}" if number else "another process"


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """In this block, the first SIGINT or SIGTERM does not end the program: the yielded function
    returns True after it. A second one raises KeyboardInterrupt at once.

    Python lets only the main thread handle signals. In another thread nothing changes, and the
    function always returns False.
    """
    asked: list[int] = []
    stop_asked = partial(bool, asked)
    if threading.current_thread() is not threading.main_thread():
        yield stop_asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
