"""What a program of ours does before anything that takes long is imported.

PyTorch takes a second to import, before `run_program` waits for signals. Until then, and after it,
SIGINT (Ctrl-C) and SIGTERM end the program without a traceback. Only in the first hundredth of a
second, before Python comes to this module, they do what they do in any Python program.

A closed standard stream is opened on nothing. Else the next file that is opened would get its
number, and what is printed. Standard output cannot be written to then, as `run_program` will say.

Nothing of this happens in other people's programs.
"""

import os
import signal
import sys
from types import FrameType

MODULES = ("minibert", "train.run", "train.predict", "train.evaluate", "train.mine",
           "train.vocabulary")  # fmt: skip
COMMANDS = ("minibert", "minibert-train")


def is_our_program(arguments: list[str]) -> bool:
    """Whether Python was started as `python -m MODULE`, or by a console command, of ours."""
    if "-m" in arguments:
        return arguments[arguments.index("-m") + 1] in MODULES
    return len(arguments) > 1 and os.path.basename(arguments[1]).removesuffix(".exe") in COMMANDS


def end(number: int, frame: FrameType | None) -> None:
    """End at once: there is nothing to save."""
    os.write(2, b"stopped\n")
    os._exit(128 + number)


if is_our_program(sys.orig_argv):
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, end)
    for stream, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number
