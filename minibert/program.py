"""How a program ends: with an exit status, and a message for people in place of a traceback."""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from minibert.files import InputError, escaped

STOPS = (signal.SIGINT, signal.SIGTERM)  # they ask a program to stop
received: list[int] = []  # those that this process has got, while somebody waited for them


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop, and has written what it needs to go on later."""


def run_program(work: Callable[[], object]) -> int:
    """Do the work of a command; the exit status is 0, 2 for input that cannot be used or output
    that cannot be written, 130 if SIGINT (Ctrl-C) stopped it, or 143 if SIGTERM did.

    Warnings are printed as single lines to standard error. Standard output is UTF-8, whatever the
    terminal's own encoding. Work whose standard output has lost its reader (`| head`) ends quietly.
    """
    open_streams()
    seen = len(received)

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        with handling(stop), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            try:
                work()
            except SystemExit:  # --help has been printed
                sys.stdout.flush()
                raise
            sys.stdout.flush()
    except InputError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt as notice:
        say(str(notice) or "stopped")
        return 128 + next(iter(received[seen:]), signal.SIGINT)
    except OSError as error:
        if error.filename is not None:
            say(f"error: {error.filename}: {error.strerror}")
            return 2
        discard(sys.stdout)  # it names no file, so it is standard output
        if isinstance(error, BrokenPipeError):  # a reader that has seen enough, such as head
            return 0
        say(f"error: cannot write to standard output: {error.strerror}")
        return 2
    return 0


def open_streams() -> None:
    """Make standard output and standard error files that can be written to.

    A program may be started with either of them closed. Then what is written to standard output is
    an error, as it is with a full disk; and what is written to standard error is lost.
    """
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def say(message: str) -> None:
    """Print a line to standard error. A name or a value in it cannot control the terminal. If the
    line cannot be written, it is lost."""
    try:
        print(escaped(message), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let a stream lead to nowhere, since Python would write the rest of it when it ends, and fail
    again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def handling(
    handler: Callable[[int, FrameType | None], Any] | signal.Handlers,
) -> Iterator[None]:
    """In this block, SIGINT and SIGTERM call the handler, or are ignored.

    Python lets only the main thread handle signals. In another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def ignore_stops() -> None:
    """Let SIGINT and SIGTERM do nothing until the block of `handling` ends: for a process that is
    ending already, and has yet to say why."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """In this block, the first SIGINT or SIGTERM does not end the program: the yielded function
    returns True after it. A second one raises KeyboardInterrupt at once.

    In any but the main thread, the function always returns False, as `handling` says.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    with handling(note):
        yield lambda: bool(asked)


class Parser(argparse.ArgumentParser):
    """A parser of options. A word that it does not know cannot control the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))


def called_as(command: str, module: str) -> str:
    """How a user calls this program, to be shown in its messages: by the console command, if it was
    started so, or by `python -m module`."""
    return command if Path(sys.argv[0]).stem == command else f"python -m {module}"
