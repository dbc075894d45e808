"""What a report of a problem should say: the versions, and what computes."""

import argparse
import platform
from typing import Any

import torch

import minibert
from minibert.devices import as_device
from minibert.precision import processor


def about() -> str:
    """Our version, Python's and PyTorch's, the device that is used if none is named, the number of
    threads, and the CPU's instruction sets: one fact a line."""
    facts = {
        "minibert": minibert.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": as_device(None),
        "threads": torch.get_num_threads(),
        "processor": processor(),
    }
    return "\n".join(f"{name} {fact}" for name, fact in facts.items())


class ShowAbout(argparse.Action):
    """The option --version. The facts are gathered only when it is given."""

    def __init__(self, option_strings: list[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(about())
        parser.exit()
