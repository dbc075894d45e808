"""Batches of token ids in, sentence vectors out: the part of `encode` that computes.

Shapes: B texts of a batch, L tokens of a text, N packed tokens, D hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit_length

from minibert.batching import batches
from minibert.fast.first import first_states, has_plain_last_layer
from minibert.fast.threads import side_by_side, starting
from minibert.files import InputError
from minibert.heads import pool
from minibert.layout import Packed

Result = TypeVar("Result")
Batch = Sequence[tuple[int, ...]]  # the token ids of each of its texts


@dataclass(frozen=True)
class Wanted:
    """How the states of a text's tokens become its vector, in the order of these fields."""

    skip: int  # the first tokens, which are a prompt's and do not count
    pooling: str  # as in `pool`
    after: nn.Module  # what the pooled vector passes
    unit_length: bool  # scaled to length 1 before it is cut off
    dim: int  # how many of its numbers are kept
    cut_to_unit_length: bool  # scaled to length 1 after that


def compute_batches(
    model: nn.Module,
    texts: Batch,
    compute: Callable[[nn.Module, torch.device, Batch], Result],
    batch_tokens: int,
    apart: bool,
) -> Iterator[tuple[list[int], Result]]:
    """Texts' numbers and what is computed of them, a batch at a time; the longest texts come first.

    model: what `inference_copy` returns. compute: `compute_states`, or `compute_vectors` with what
    is wanted. On a CPU each batch has one thread, as long as there are batches for all of PyTorch's
    threads; the few that are left share them. apart: each batch has only one in any case.
    """
    with starting:  # see `start_pool`: this thread may be new
        threads = torch.get_num_threads()
    device = next(model.parameters()).device
    # Autocast holds for the thread that has set it, so nothing runs elsewhere then.
    alone = device.type != "cpu" or torch.is_autocast_enabled("cpu")
    workers = 1 if alone else threads
    cut = list(batches([len(ids) for ids in texts], batch_tokens, workers))
    inputs = [[texts[i] for i in batch] for batch in cut]
    work = partial(compute, model, device)
    results: Iterator[Result]
    if workers == 1 or (len(cut) == 1 and not apart):
        results = map(work, inputs)  # all threads share each batch
    else:
        results = side_by_side(work, inputs, min(workers, len(cut)) if apart else workers)
    return zip(cut, results, strict=True)


@torch.inference_mode()
def compute_states(model: nn.Module, device: torch.device, batch: Batch) -> Sequence[Tensor]:
    """The last hidden state of each text of a batch, (L, D)."""
    layout = Packed([len(ids) for ids in batch], device)
    input_ids = torch.tensor([i for ids in batch for i in ids], device=device)  # (N)
    hidden = model(input_ids, layout=layout)  # (N, D)
    return hidden.split(layout.lengths)


@torch.inference_mode()
def compute_vectors(
    wanted: Wanted, model: nn.Module, device: torch.device, batch: Batch
) -> NDArray[np.float32]:
    """The vectors of a batch: (B, dim)."""
    layout = Packed([len(ids) for ids in batch], device)
    input_ids = torch.tensor([i for ids in batch for i in ids], device=device)  # (N)
    if wanted.pooling == "cls" and not wanted.skip and has_plain_last_layer(model):
        vectors = in_float32(first_states(model, input_ids, layout))  # (B, D)
    else:
        hidden = in_float32(model(input_ids, layout=layout))  # (N, D)
        if wanted.skip:
            hidden, layout = without_first(hidden, layout, wanted.skip)
        vectors = pool(hidden, layout, wanted.pooling)  # (B, D)
    vectors = wanted.after(vectors)
    if wanted.unit_length:
        vectors = to_unit_length(vectors, dim=-1)
    vectors = vectors[:, : wanted.dim]
    if wanted.cut_to_unit_length:
        vectors = to_unit_length(vectors, dim=-1)
    return vectors.float().cpu().numpy()


def in_float32(states: Tensor) -> Tensor:
    """States of half precision in float32: half precision is for products, not for sums."""
    return states.float() if states.dtype.itemsize == 2 else states


def without_first(hidden: Tensor, layout: Packed, count: int) -> tuple[Tensor, Packed]:
    """The states of each text's tokens but the first `count`, and their layout."""
    lengths = [length - count for length in layout.lengths]
    if min(lengths) < 1:
        raise InputError(
            "a prompt and a text have become one word: let the prompt end with a space"
        )
    rest = [states[:, count:].flatten(0, 1) for (states,), _ in layout.groups(hidden)]
    return torch.cat(rest), Packed(lengths, hidden.device)
