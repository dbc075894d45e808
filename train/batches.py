"""Examples -> token ids -> batches.

Shapes: N packed tokens of a batch, K targets of a task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from minibert.layout import Packed
from minibert.tokenizer import Tokenizer, Tokens
from train.data.examples import Example


@dataclass(frozen=True)
class Input:
    """One sequence that a task reads: [CLS] text [SEP], or [CLS] text [SEP] second [SEP]."""

    text: str | tuple[str, ...]  # a tuple holds the words of a text that is split already
    second: str | None = None


class Reader(Protocol):
    """What batches ask of a task."""

    name: str

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """The sequences that the task reads of an example; none if it has nothing to say of it."""

    def add_targets(self, batch: "Batch") -> None:
        """Put the task's targets into a batch."""


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
    input_ids: Tensor  # int64, (N)
    token_type_ids: Tensor | None  # int64, (N); None where all are 0
    layout: Packed
    sequences: list[tuple[int, int]]  # for each of the layout's: its item, and which part it is
    rows: list[tuple[int, ...]]  # for each item: where its parts stand in the layout
    starts: list[int]  # for each sequence of the layout: its first token
    # for each task that has targets here:
    positions: dict[str, Tensor] = field(default_factory=dict)  # where they stand, (K) or (K, 2)
    targets: dict[str, Tensor] = field(default_factory=dict)  # what they are, (K)

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
        # An input and how often the same task asked for it before -> its part. A task that wants a
        # text twice gets two parts, since dropout makes two vectors of them.
        parts: dict[tuple[Input, int], int] = {}
        wanted = {task.name: task.inputs(example) for task in tasks}
        parts_of.append(
            {
                name: tuple(
                    parts.setdefault((one, own[:k].count(one)), len(parts))
                    for k, one in enumerate(own)
                )
                for name, own in wanted.items()
                if own
            }
        )
        inputs.append([one for one, _ in parts])
    tokens = iter(_encode([one for of_example in inputs for one in of_example], tokenizer))
    return [
        Item(example, tuple(next(tokens) for _ in own), first_number + i, parts)
        for i, (example, own, parts) in enumerate(zip(examples, inputs, parts_of, strict=True))
    ]


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


def collate(
    items: Sequence[Item], tasks: Sequence[Reader], device: torch.device | str = "cpu"
) -> Batch:
    """Pack items into a batch, with the targets of these tasks.

    Sequences are sorted by length, so that those of equal length share one attention call.
    """
    lengths_of = {
        (i, part): len(tokens.ids)
        for i, item in enumerate(items)
        for part, tokens in enumerate(item.parts)
    }
    sequences = sorted(lengths_of, key=lengths_of.__getitem__)
    tokens = [items[i].parts[part] for i, part in sequences]
    row_of = {sequence: row for row, sequence in enumerate(sequences)}
    lengths = [len(one.ids) for one in tokens]
    types = [number for one in tokens for number in one.type_ids]
    batch = Batch(
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
    for task in tasks:
        task.add_targets(batch)
    return batch
