"""SIGINT (Ctrl-C) and SIGTERM while a program of ours starts or ends: no traceback.

PyTorch takes a second to import, before `run_program` waits for signals. So this module is imported
first, and sees to them until then, and after. It changes nothing in other people's programs. Before
Python comes to it, in the first hundredth of a second, signals do what they do in any program.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

MODULES = ("minibert", "train.run", "train.predict", "train.evaluate", "train.mine",
           "train.vocabulary")  # fmt: skip
COMMANDS = ("minibert", "minibert-train")


def is_our_program(arguments: list[str]) -> bool:
    """Whether Python was started as `python -m MODULE`, or by a console command, of ours."""
    if "-m" in arguments:
        return arguments[arguments.index("-m") + 1] in MODULES
    return len(arguments) > 1 and Path(arguments[1]).stem in COMMANDS


def end(number: int, frame: FrameType | None) -> None:
    """End at once: there is nothing to save."""
    os.write(2, b"stopped\n")
    os._exit(128 + number)


if is_our_program(sys.orig_argv):
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, end)
