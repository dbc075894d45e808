"""What a run says when memory runs out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from minibert.files import InputError
from train.batches import Batch


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
