"""A piece of work in a forked child, which is killed as `kill -9` does.

A forked child has all modules and models of its parent, so that a try takes milliseconds. It
computes with one thread.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO

import torch
from tqdm import tqdm

from tools.faults.victim import watch_operations

Work = Callable[[], object]


def fork(work: Work) -> int:
    """Start the work in a child; returns its number. Its exit status is 1 after an exception."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own lock would outlive a process that is killed
    if child := os.fork():
        return child
    status = 1
    try:
        with redirect_stderr(StringIO()):
            work()
        status = 0
    finally:
        os._exit(status)


def killed_before(operation: int, work: Work) -> bool:
    """Run the work, killed before its file operation of this number, from 1. False if it ended
    before. Raises RuntimeError if it failed."""

    def before(number: int) -> None:
        if number == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched() -> None:
        watch_operations(before)
        work()

    return was_killed(fork(watched))


def killed_after(seconds: float, work: Work) -> bool:
    """Run the work, killed after some time. False if it ended before. Raises RuntimeError if it
    failed."""
    child = fork(work)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return was_killed(child)


def was_killed(child: int) -> bool:
    """Wait for a child. Raises RuntimeError if it failed."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the child ended with exit status {status}")
    return status != 0
