"""Examples, their tokens, and how they become batches: what is between a file and the model.

Shapes: N packed tokens of a batch, B sentences, K targets of a task.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from minibert.batching import batches
from minibert.layout import Packed
from minibert.tokenizer import Tokenizer, Tokens

if TYPE_CHECKING:
    from train.tasks import Task

Place = tuple[int, int]  # an example in an epoch's plan: its source, and its number there
Label = str | tuple[str, ...] | float  # of a sentence, of each of its words, or a number
MOST_IN_POOL = 50  # batches that are sorted by length together, where batches are grouped by it
T = TypeVar("T")
BIO = re.compile("O|[BI]-.+")  # a tag: outside; begins or goes on with an entity of a type


@dataclass(frozen=True)
class Example:
    """One sentence, or a pair of them, with the labels that its source gives."""

    text: str
    labels: Mapping[str, Label]
    where: str  # "file, line 7": for messages
    words: tuple[str, ...] | None = None  # where the labels are of words
    second: str | None = None  # the other sentence of a pair


@dataclass(frozen=True)
class DataSet:
    """One source of examples, split."""

    name: str
    splits: Mapping[str, Sequence[Example]]  # "train", "dev", "test"


@dataclass(frozen=True)
class Item:
    """An example with its tokens: one `Tokens`, or two for a pair."""

    example: Example
    parts: tuple[Tokens, ...]
    number: int  # among all items of the run: the prefix cache's key

    @property
    def num_tokens(self) -> int:
        return sum(len(part.ids) for part in self.parts)


@dataclass
class Batch:
    """Some items as the model reads them: packed, shortest sentence first."""

    items: list[Item]
    input_ids: Tensor  # (N) int64
    layout: Packed
    # for each sentence of the layout: its item, and which of its parts it is
    sentences: list[tuple[int, int]]
    rows: list[tuple[int, ...]]  # for each item: the sentences of the layout that are its parts
    starts: list[int]  # for each sentence of the layout: its first token
    # for each task: which scores have a target (K) or (K, 2)
    places: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)  # for each task: the targets (K)

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()


def prepare(examples: Sequence[Example], tokenizer: Tokenizer, first_number: int = 0) -> list[Item]:
    """Tokenize examples, with one warning for all that are too long."""
    ours: list[tuple[int, Tokens]] = []
    split = [i for i, example in enumerate(examples) if example.words is not None]
    whole = [i for i, example in enumerate(examples) if example.words is None]
    ours += zip(
        split, tokenizer.encode_words([examples[i].words or () for i in split]), strict=True
    )
    ours += zip(whole, tokenizer.encode([examples[i].text for i in whole]), strict=True)
    pairs = [i for i, example in enumerate(examples) if example.second is not None]
    seconds = dict(
        zip(pairs, tokenizer.encode([examples[i].second or "" for i in pairs]), strict=True)
    )
    return [
        Item(examples[i], (tokens, seconds[i]) if i in seconds else (tokens,), first_number + i)
        for i, tokens in sorted(ours, key=lambda pair: pair[0])
    ]


def collate(
    items: Sequence[Item], tasks: Sequence["Task"], device: torch.device | str = "cpu"
) -> Batch:
    """Pack items into a batch, with the targets of every task that has a label here.

    Sentences are sorted by length, so that those of equal length share one attention call.
    """
    sentences = [(i, part) for i, item in enumerate(items) for part in range(len(item.parts))]
    sentences.sort(key=lambda sentence: len(items[sentence[0]].parts[sentence[1]].ids))
    row_of = {sentence: row for row, sentence in enumerate(sentences)}
    ids: list[int] = []
    starts = []
    for i, part in sentences:
        starts.append(len(ids))
        ids += items[i].parts[part].ids
    lengths = [len(items[i].parts[part].ids) for i, part in sentences]
    rows = [
        tuple(row_of[i, part] for part in range(len(item.parts))) for i, item in enumerate(items)
    ]
    batch = Batch(
        list(items),
        torch.tensor(ids, device=device),
        Packed(lengths, device),
        sentences,
        rows,
        starts,
    )
    for task in tasks:
        places: list[Any] = []
        values: list[Any] = []
        for i, item in enumerate(items):
            if task.name in item.example.labels:
                places += task.places(batch, i)
                values += task.values(item)
        if places:
            batch.places[task.name] = torch.tensor(places, device=device)  # (K) or (K, 2)
            batch.values[task.name] = torch.tensor(values, device=device)  # (K)
    return batch


def evaluation_batches(items: Sequence[Item], batch_tokens: int = 2048) -> Iterator[list[Item]]:
    """All items once, those of equal length together: the order does not matter when nothing is
    learnt."""
    for batch in batches([item.num_tokens for item in items], batch_tokens):
        yield [items[i] for i in batch]


def plan_epoch(
    sizes: Sequence[int],
    batch_size: int,
    sampling: str,
    temperature: float,
    seed: int,
    lengths: Sequence[Sequence[int]] | None = None,
) -> list[list[Place]]:
    """The batches of one epoch, each from one source: lists of (source, number of its item).

    An epoch has as many batches as the sources have together. "proportional" takes each batch of
    each source once; the others choose each batch's source by size ** (1 / temperature), evenly at
    random, or in turns, and a source that runs out is shuffled anew. lengths: of each source's
    items, where batches are to be of items of similar length. The plan follows from the arguments
    alone, which is what makes a run resumable.
    """
    random = torch.Generator().manual_seed(seed)
    counts = [math.ceil(size / batch_size) for size in sizes]
    total = sum(counts)
    if sampling == "proportional":
        order = [source for source, count in enumerate(counts) for _ in range(count)]
        turns = [order[i] for i in torch.randperm(total, generator=random).tolist()]
    elif sampling == "round-robin":
        turns = [i % len(sizes) for i in range(total)]
    else:
        power = 1 / temperature if sampling == "temperature" else 0.0
        weights = torch.tensor([size / max(sizes) for size in sizes]) ** power
        turns = torch.multinomial(weights, total, replacement=True, generator=random).tolist()
    streams = [
        _shuffled_batches(size, batch_size, random, None if lengths is None else lengths[source])
        for source, size in enumerate(sizes)
    ]
    return [[(source, number) for number in next(streams[source])] for source in turns]


def _shuffled_batches(
    size: int, batch_size: int, random: torch.Generator, lengths: Sequence[int] | None
) -> Iterator[list[int]]:
    while True:
        order = torch.randperm(size, generator=random).tolist()
        if lengths is None:
            yield from windows(order, batch_size)
            continue
        # Sorted within some pools, not as a whole: an item then has other neighbours in every
        # epoch.
        in_pool = max(1, min(MOST_IN_POOL, size // (4 * batch_size))) * batch_size
        pools = (sorted(pool, key=lengths.__getitem__) for pool in windows(order, in_pool))
        alike = [batch for pool in pools for batch in windows(pool, batch_size)]
        for i in torch.randperm(len(alike), generator=random).tolist():
            yield alike[i]


def windows(sequence: list[T], size: int) -> list[list[T]]:
    """A list in pieces of `size`, such as an epoch's batches in steps; the last may be shorter."""
    return [sequence[start : start + size] for start in range(0, len(sequence), size)]
