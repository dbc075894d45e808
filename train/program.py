"""What the programs share: exit statuses, and stopping when the user asks for it."""

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from minibert.files import InputError, signals


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop, and has put in order what was to be put in order."""


def run_program(program: Callable[[], None]) -> int:
    """Call a program and return its exit status: 0; 2 for input that cannot be used, with one line
    on standard error; 130 if it was interrupted."""
    try:
        program()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as notice:
        print(str(notice) or "stopped", file=sys.stderr)
        return 130
    return 0


def stop_signals() -> AbstractContextManager[Callable[[], bool]]:
    """While this is open, SIGINT and SIGTERM only make the yielded function true.

    Python delivers signals to the main thread alone; in any other nothing is changed.
    """
    if threading.current_thread() is threading.main_thread():
        return signals()
    return nullcontext(lambda: False)
