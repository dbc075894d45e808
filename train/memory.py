"""How much memory a run holds, and what it says when that runs out."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from minibert.files import InputError
from train.batches import Batch

if sys.platform != "win32":
    import resource


def peak_memory() -> dict[str, int]:
    """The most bytes that this process has held at once, on the machine and on a GPU, as far as
    that is known."""
    found = {}
    if sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024
        found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available() and (bytes_held := torch.cuda.max_memory_allocated()):
        found["GPU memory"] = bytes_held
    return found


@contextmanager
def naming_batches(batches: Sequence[Batch], advice: str) -> Iterator[None]:
    """If memory runs out in this block, raise InputError, which names the batches and says what to
    do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sequences = sum(len(batch.sequences) for batch in batches)
        tokens = sum(batch.input_ids.numel() for batch in batches)
        raise InputError(
            f"out of memory with {sequences} sequences of {tokens:,} tokens in all, the first of "
            f"{batches[0].items[0].example.where}: {advice}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the machine has no memory left. For the machine's,
    PyTorch raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
