"""Examples -> token ids -> batches.

Shapes: N packed tokens of a batch, K targets of a task.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from minibert.encoder import batches
from minibert.layout import Packed
from minibert.tokenizer import Tokenizer, Tokens
from train.data.examples import Example


@dataclass(frozen=True)
class Input:
    """One sequence that a task reads: [CLS] text [SEP], or [CLS] text [SEP] second [SEP]."""

    text: str | tuple[str, ...]  # a tuple holds the words of a text that is split already
    second: str | None = None


class Reader(Protocol):
    """What this file asks of a task."""

    name: str

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """The sequences that the task reads of an example; none if it has nothing to say of it."""


@dataclass(frozen=True)
class Item:
    """An example with its tokens: one `Tokens` for each sequence that some task reads."""

    example: Example
    parts: tuple[Tokens, ...]
    number: int  # among all items of the run: the prefix cache's key
    # each task that reads this example -> which of the parts it reads, in its order
    parts_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return sum(len(part.ids) for part in self.parts)

    def tokens_of(self, task: str) -> list[Tokens]:
        """The sequences that a task reads of this item."""
        return [self.parts[part] for part in self.parts_of[task]]


@dataclass
class Batch:
    """Some items as the model reads them: packed, shortest sequence first."""

    items: list[Item]
    input_ids: Tensor  # (N) int64
    token_type_ids: Tensor | None  # (N) int64; None where all are 0
    layout: Packed
    sequences: list[tuple[int, int]]  # for each of the layout's: its item, and which part it is
    rows: list[tuple[int, ...]]  # for each item: where its parts stand in the layout
    starts: list[int]  # for each sequence of the layout: its first token
    # for each task that has targets here:
    positions: dict[str, Tensor] = field(default_factory=dict)  # where they stand, (K) or (K, 2)
    targets: dict[str, Tensor] = field(default_factory=dict)  # (K)

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()

    def rows_of(self, task: str, i: int) -> list[int]:
        """Where the sequences that a task reads of item i stand in the layout."""
        return [self.rows[i][part] for part in self.items[i].parts_of[task]]


def prepare(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    tasks: Sequence[Reader],
    first_number: int = 0,
) -> list[Item]:
    """Tokenize examples, as the tasks read them, with a warning if some are too long.

    A sequence that several tasks read is one part of the item.
    """
    inputs: list[list[Input]] = []
    parts_of: list[dict[str, tuple[int, ...]]] = []
    for example in examples:
        inputs.append([])
        parts_of.append({})
        for task in tasks:
            if wanted := task.inputs(example):
                parts_of[-1][task.name] = _found_or_added(wanted, inputs[-1])
    tokens = iter(_encode([one for of_example in inputs for one in of_example], tokenizer))
    return [
        Item(example, tuple(next(tokens) for _ in own), first_number + i, parts)
        for i, (example, own, parts) in enumerate(zip(examples, inputs, parts_of, strict=True))
    ]


def _found_or_added(wanted: Sequence[Input], known: list[Input]) -> tuple[int, ...]:
    """The numbers in `known` of what a task wants, which is added where it is missing.

    A task that wants one input twice gets two parts: dropout makes two vectors of them.
    """
    numbers: list[int] = []
    for one in wanted:
        fits = (i for i, other in enumerate(known) if other == one and i not in numbers)
        number = next(fits, len(known))
        if number == len(known):
            known.append(one)
        numbers.append(number)
    return tuple(numbers)


def _encode(inputs: Sequence[Input], tokenizer: Tokenizer) -> list[Tokens]:
    """The tokens of each input, by one call for each form of input that there is."""
    words = {i: one.text for i, one in enumerate(inputs) if isinstance(one.text, tuple)}
    pairs = {i: (one.text, one.second) for i, one in enumerate(inputs) if one.second is not None}
    texts = {i: one.text for i, one in enumerate(inputs) if i not in words and i not in pairs}
    forms: list[tuple[Callable[[list[Any]], list[Tokens]], Mapping[int, Any]]] = [
        (tokenizer.encode_words, words),
        (tokenizer.encode, texts),
        (tokenizer.encode_pairs, pairs),
    ]
    found: dict[int, Tokens] = {}
    for encode, chosen in forms:
        if chosen:
            found |= dict(zip(chosen, encode(list(chosen.values())), strict=True))
    return [found[i] for i in range(len(inputs))]


def collate(items: Sequence[Item], device: torch.device | str = "cpu") -> Batch:
    """Pack items into a batch.

    Sequences are sorted by length, so that those of equal length share one attention call.
    """
    sequences = [(i, part) for i, item in enumerate(items) for part in range(len(item.parts))]
    sequences.sort(key=lambda sequence: len(items[sequence[0]].parts[sequence[1]].ids))
    tokens = [items[i].parts[part] for i, part in sequences]
    row_of = {sequence: row for row, sequence in enumerate(sequences)}
    lengths = [len(one.ids) for one in tokens]
    types = [number for one in tokens for number in one.type_ids]
    return Batch(
        items=list(items),
        input_ids=torch.tensor([number for one in tokens for number in one.ids], device=device),
        token_type_ids=torch.tensor(types, device=device) if any(types) else None,
        layout=Packed(lengths, device),
        sequences=sequences,
        rows=[
            tuple(row_of[i, part] for part in range(len(item.parts)))
            for i, item in enumerate(items)
        ],
        starts=[end - length for end, length in zip(accumulate(lengths), lengths, strict=True)],
    )


def evaluation_batches(items: Sequence[Item], batch_tokens: int = 2048) -> Iterator[list[Item]]:
    """All items once, those of equal length together: the order does not matter when nothing is
    learnt."""
    for batch in batches([item.num_tokens for item in items], batch_tokens):
        yield [items[i] for i in batch]


def token_ids(items: Iterable[Item]) -> set[int]:
    """The ids of all tokens in some items."""
    return {number for item in items for part in item.parts for number in part.ids}
