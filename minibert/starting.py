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


def is_our_program(command: list[str], arguments: list[str]) -> bool:
    """Whether Python was started as `python -m MODULE`, or by a console command, of ours.

    command: the whole line, `sys.orig_argv`. arguments: what the program sees of it, `sys.argv`,
    its own name first. A process that multiprocessing has started has our arguments too, though not
    on its line, which may be shorter.
    """
    start = command[: max(1, len(command) - len(arguments) + 1)]
    if start[-2:-1] == ["-m"]:
        return start[-1] in MODULES
    return os.path.basename(start[-1]).removesuffix(".exe") in COMMANDS


def end(number: int, frame: FrameType | None) -> None:
    """End at once: there is nothing to save."""
    os.write(2, b"stopped\n")
    os._exit(128 + number)


if is_our_program(sys.orig_argv, sys.argv):
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, end)
    for stream, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number
