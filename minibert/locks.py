"""Locks that keep two processes from writing one file or folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from minibert.files import InputError, writing

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class LockedError(InputError):
    """Another process or thread is writing the file or folder."""


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes and threads from writing the same file or folder until the block ends.

    Only those are kept out that ask for the lock too. It is a lock on an open file: `.lock` in a
    folder, `.NAME.lock` beside a file. When a process ends, however it ends, the system releases
    its locks.
    Raises LockedError if another process or thread holds the lock, naming the process, and
    InputError if the lock file cannot be written.
    """
    is_folder = os.path.isdir(target)  # answers False to odd names, for which Path.is_dir raises
    file = target / ".lock" if is_folder else target.with_name(f".{target.name}.lock")
    with writing(target):
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = _take_lock(file)
    if stream is None:
        raise LockedError(f"{_holder(file)} is writing {target}: wait until it ends, or end it")
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
                with suppress(OSError):  # a full disk has no room for the number
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
