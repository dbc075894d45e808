"""How a program ends: with an exit status, and a message for people in place of a traceback."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from minibert.files import InputError, escaped


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop, and has written what it needs to go on later."""


def run_program(work: Callable[[], object]) -> int:
    """Do the work of a command; the exit status is 0, 2 for input that cannot be used or output
    that cannot be written, or 130 if it was interrupted.

    Warnings are printed as single lines to standard error. Standard output is UTF-8, whatever the
    terminal's own encoding. Work whose standard output has lost its reader (`| head`) ends quietly.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: complain(f"warning: {message}")
        try:
            work()
            sys.stdout.flush()
        except InputError as error:
            complain(f"error: {error}")
            return 2
        except KeyboardInterrupt as notice:
            complain(str(notice) or "stopped")
            return 130
        except OSError as error:
            if error.filename is not None:
                complain(f"error: {error.filename}: {error.strerror}")
                return 2
            # It names no file, so it is standard output. Python would write the rest of it when it
            # ends, and fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):  # a reader that has seen enough, such as head
                return 0
            complain(f"error: cannot write to standard output: {error.strerror}")
            return 2
    return 0


def complain(message: str) -> None:
    """Print a message to standard error. A name or a value in it cannot control the terminal."""
    print(escaped(message), file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """A parser of options. A word that it does not know cannot control the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))


def called_as(command: str, module: str) -> str:
    """How a user calls this program, to be shown in its messages: by the console command, if it was
    started so, or by `python -m module`."""
    return command if Path(sys.argv[0]).stem == command else f"python -m {module}"
