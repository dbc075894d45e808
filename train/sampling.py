"""Which examples come in which order: the plan of an epoch."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from train.settings import Settings

ExampleId = tuple[int, int]  # an example in a plan: its source, and its number there
MOST_IN_POOL = 50  # batches that are sorted by length together, where batches are grouped by it
T = TypeVar("T")


def plan_steps(
    sizes: Sequence[int],
    settings: Settings,
    epoch: int,
    lengths: Sequence[Sequence[int]] | None = None,
) -> list[list[list[ExampleId]]]:
    """An epoch's steps: lists of batches, which are lists of examples. Follows from its arguments
    alone, which makes a run resumable.

    A batch is from one source, and an epoch has as many batches as the sources have together.
    "proportional" sampling takes each batch of each source once. The others choose each batch's
    source: "temperature" by size ** (1 / temperature), "uniform" evenly at random, "round-robin" in
    turns; a source that runs out is shuffled again.
    sizes: how many items each source has. lengths: the tokens of each of them, by which batches are
    grouped if the settings say so. How many steps there are does not depend on them.
    """
    random = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    batch_size, sampling = settings.batch_size, settings.sampling
    counts = [math.ceil(size / batch_size) for size in sizes]
    total = sum(counts)
    if sampling == "proportional":
        order = [source for source, count in enumerate(counts) for _ in range(count)]
        turns = [order[i] for i in torch.randperm(total, generator=random).tolist()]
    elif sampling == "round-robin":
        turns = [i % len(sizes) for i in range(total)]
    else:
        power = 1 / settings.temperature if sampling == "temperature" else 0.0
        weights = torch.tensor([size / max(sizes) for size in sizes]) ** power
        turns = torch.multinomial(weights, total, replacement=True, generator=random).tolist()
    grouped = lengths if settings.group_by_length else None
    streams = [
        _shuffled_batches(size, batch_size, random, grouped[source] if grouped else None)
        for source, size in enumerate(sizes)
    ]
    batches = [[(source, number) for number in next(streams[source])] for source in turns]
    return in_pieces(batches, settings.accumulate)


def _shuffled_batches(
    size: int, batch_size: int, random: torch.Generator, lengths: Sequence[int] | None
) -> Iterator[list[int]]:
    while True:
        order = torch.randperm(size, generator=random).tolist()
        if lengths is None:
            yield from in_pieces(order, batch_size)
            continue
        # Sorted within pools and not as a whole: an item then has other neighbours in each epoch.
        in_pool = max(1, min(MOST_IN_POOL, size // (4 * batch_size))) * batch_size
        pools = (sorted(pool, key=lengths.__getitem__) for pool in in_pieces(order, in_pool))
        alike = [batch for pool in pools for batch in in_pieces(pool, batch_size)]
        for i in torch.randperm(len(alike), generator=random).tolist():
            yield alike[i]


def in_pieces(items: list[T], size: int) -> list[list[T]]:
    """A list in pieces of `size`; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]
