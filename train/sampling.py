"""Which examples come in which order: the plan of an epoch."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.batches import Item
from train.settings import Settings
from train.tasks.base import Task

ExampleId = tuple[int, int]  # an example in a plan: its source, and its number there
MOST_IN_POOL = 50  # batches that are sorted by length together, where batches are grouped by it
Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Plan:
    """An epoch's steps: lists of batches, which are lists of examples.

    A step's lists are made when it is asked for. The plan itself holds four bytes an example, since
    an epoch of plain text has millions of them.
    """

    numbers: Numbers  # of all examples, batch after batch
    sources: NDArray[np.int64]  # of each batch
    batch_bounds: NDArray[np.int64]  # where each batch begins among the numbers, and the last ends
    step_bounds: NDArray[np.int64]  # where each step begins among the batches, and the last ends
    left_out: int  # examples that no batch could take, as `plan_steps` says

    def __len__(self) -> int:
        return len(self.step_bounds) - 1

    def __getitem__(self, step: int) -> list[list[ExampleId]]:
        bounds = self.batch_bounds
        return [
            [
                (int(self.sources[i]), number)
                for number in self.numbers[bounds[i] : bounds[i + 1]].tolist()
            ]
            for i in range(self.step_bounds[step], self.step_bounds[step + 1])
        ]

    def __iter__(self) -> Iterator[list[list[ExampleId]]]:
        return (self[step] for step in range(len(self)))


def plan_steps(
    sizes: Sequence[int],
    settings: Settings,
    epoch: int,
    lengths: Sequence[Sequence[int]] | None = None,
    texts: Sequence[Sequence[Sequence[int]]] | None = None,
) -> Plan:
    """The plan of an epoch, counted from 1. It follows from its arguments alone, which makes a run
    resumable.

    A batch is from one source, and an epoch has as many batches as the sources have together.
    "proportional" sampling takes each batch of each source once. The others choose each batch's
    source: "temperature" by size ** (1 / temperature), "uniform" evenly at random, "round-robin" in
    turns; a source that runs out is shuffled again.
    sizes: how many items each source has. lengths: the tokens of each item, by which batches are
    grouped if the settings say so. texts: of the first sources, numbers of each item's texts, if
    those of a batch must all differ; an item goes into the first batch that has room and none of
    its texts, and is left out where there is none. How many steps there are depends on neither.
    """
    random = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    sources = _turns(sizes, settings, random)
    waiting: list[Iterator[Numbers]] = [iter(()) for _ in sizes]  # of each source: batches to come
    most = min(settings.batch_size, max(sizes, default=0))
    numbers, end = np.empty(len(sources) * most, np.int32), 0
    batch_bounds = np.zeros(len(sources) + 1, np.int64)
    left_out = 0
    for i, source in enumerate(sources.tolist()):
        batch = next(waiting[source], None)
        if batch is None:  # the source has not begun, or has run out
            batches = _shuffled(
                sizes[source],
                settings.batch_size,
                random,
                lengths[source] if lengths and settings.group_by_length else None,
                texts[source] if texts and source < len(texts) else None,
            )
            left_out += sizes[source] - sum(map(len, batches))
            waiting[source] = iter(batches)
            batch = next(waiting[source])
        numbers[end : end + len(batch)] = batch
        end += len(batch)
        batch_bounds[i + 1] = end
    step_bounds = _step_bounds(sizes, settings, epoch)
    return Plan(numbers[:end], sources.numpy(), batch_bounds, step_bounds, left_out)


def count_steps(sizes: Sequence[int], settings: Settings, epochs: int) -> int:
    """How many steps so many epochs have. sizes: how many items each source has."""
    num_batches = sum(_counts(sizes, settings))
    steps = 0
    for epoch in range(epochs):
        if steps >= settings.ramp_steps:  # each epoch has the same number from here on
            return steps + (epochs - epoch) * math.ceil(num_batches / settings.accumulate)
        left = num_batches
        while left > 0:
            left -= _ramped(steps, settings)
            steps += 1
    return steps


def texts_apart(items: Iterable[Item], tasks: Sequence[Task]) -> list[tuple[int, ...]]:
    """For `plan_steps`: each item's texts that no other item of its batch may have. Equal texts
    have the same number; those that differ only in what the tokenizer does not see are equal."""
    apart = [task.name for task in tasks if task.keeps_texts_apart]
    numbers: dict[tuple[int, ...], int] = {}
    return [
        tuple(
            numbers.setdefault(tuple(tokens.ids), len(numbers))
            for name in apart
            if name in item.parts_of
            for tokens in item.tokens_of(name)
        )
        for item in items
    ]


def _counts(sizes: Sequence[int], settings: Settings) -> list[int]:
    """How many batches each source has."""
    return [math.ceil(size / settings.batch_size) for size in sizes]


def _turns(sizes: Sequence[int], settings: Settings, random: torch.Generator) -> Tensor:
    """The source of each batch of an epoch."""
    counts = _counts(sizes, settings)
    total = sum(counts)
    if settings.sampling == "proportional":
        order = torch.arange(len(sizes)).repeat_interleave(torch.tensor(counts))
        return order[torch.randperm(total, generator=random)]
    if settings.sampling == "round-robin":
        return torch.arange(total) % len(sizes)
    power = 1 / settings.temperature if settings.sampling == "temperature" else 0.0
    weights = torch.tensor([size / max(sizes) for size in sizes]) ** power
    return torch.multinomial(weights, total, replacement=True, generator=random)


def _ramped(step: int, settings: Settings) -> int:
    """How many batches a step takes, counted from 0 over the whole run: 1 at first, then more up to
    `accumulate` (Geiping and Goldstein 2022, section 4.3, arXiv:2212.14034)."""
    if step >= settings.ramp_steps:
        return settings.accumulate
    return min(settings.accumulate, 1 + settings.accumulate * step // settings.ramp_steps)


def _step_bounds(sizes: Sequence[int], settings: Settings, epoch: int) -> NDArray[np.int64]:
    """Where each step of an epoch begins among its batches, and where the last one ends, which may
    have fewer of them."""
    num_batches = sum(_counts(sizes, settings))
    step = count_steps(sizes, settings, epoch - 1)
    bounds = [0]
    while bounds[-1] < num_batches:
        bounds.append(min(bounds[-1] + _ramped(step, settings), num_batches))
        step += 1
    return np.array(bounds, np.int64)


def _shuffled(
    size: int,
    batch_size: int,
    random: torch.Generator,
    lengths: Sequence[int] | None,
    texts: Sequence[Sequence[int]] | None,
) -> list[Numbers]:
    """The batches of one pass over a source."""
    order: Numbers = torch.randperm(size, generator=random, dtype=torch.int32).numpy()
    if lengths is not None:
        # Sorted within pools and not as a whole: an item then has other neighbours in each epoch.
        in_pool = max(1, min(MOST_IN_POOL, size // (4 * batch_size))) * batch_size
        of_item = np.asarray(lengths)
        pools = _in_pieces(order, in_pool)
        order = np.concatenate([p[np.argsort(of_item[p], kind="stable")] for p in pools])
    if texts is None:
        batches = _in_pieces(order, batch_size)
    else:
        batches = _kept_apart(order, texts, batch_size)
    if lengths is not None:
        turns = torch.randperm(len(batches), generator=random).tolist()
        batches = [batches[i] for i in turns]
    return batches


def _in_pieces(order: Numbers, size: int) -> list[Numbers]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _kept_apart(order: Numbers, texts: Sequence[Sequence[int]], size: int) -> list[Numbers]:
    """As many batches as `_in_pieces` makes, in each of which no text comes twice."""
    batches: list[list[int]] = [[] for _ in range(0, len(order), size)]
    held: list[set[int]] = [set() for _ in batches]  # the texts of each batch
    first_open = 0  # all batches before it are full
    first_for: dict[int, int] = {}  # a text -> all batches before this one are full, or hold it
    for number in order.tolist():
        own = texts[number]
        start = first_open
        for text in own:
            i = max(first_open, first_for.get(text, 0))
            while i < len(batches) and (text in held[i] or len(batches[i]) == size):
                i += 1
            first_for[text] = i
            start = max(start, i)
        fitting = (
            i
            for i in range(start, len(batches))
            if len(batches[i]) < size and held[i].isdisjoint(own)
        )
        if (chosen := next(fitting, None)) is not None:
            batches[chosen].append(number)
            held[chosen].update(own)
        while first_open < len(batches) and len(batches[first_open]) == size:
            first_open += 1
    return [np.array(batch, np.int32) for batch in batches]
