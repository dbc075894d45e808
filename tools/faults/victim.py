"""python -m tools.faults.victim N MODULE ARGUMENTS: run a module as `python -m MODULE` would, and
kill it, as `kill -9` does, before its file operation number N (from 1).

A file operation opens a file for writing, renames, removes or makes something. N = 0 kills nothing,
and prints the number of operations to standard error at the end.
"""

import itertools
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


def is_operation(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event of Python changes files. /dev/null and the like are no files."""
    if event != "open":
        return event in OPERATIONS
    path, flags = arguments[0], arguments[2]
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return bool(writes) and not str(path).startswith("/dev/")


def watch_operations(before: Callable[[int], object]) -> None:
    """From now on, call `before` with the number of each file operation, from 1, before it."""
    numbers = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_operation(event, arguments):
            before(next(numbers))

    sys.addaudithook(hook)


def main() -> None:
    last, module, done = int(sys.argv[1]), sys.argv[2], 0
    sys.argv[:] = sys.argv[2:]

    def before(number: int) -> None:
        nonlocal done
        done = number
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    watch_operations(before)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        if not last:
            print(f"{done} file operations", file=sys.stderr)


if __name__ == "__main__":
    main()
