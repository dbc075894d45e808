"""Examples -> token ids -> batches.

Shapes: N packed tokens of a batch, K targets of a task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from minibert.layout import Packed
from minibert.tokenizer import Form, Tokenizer, Tokens
from train.data.examples import Example


@dataclass(frozen=True)
class Input:
    """What a task reads: [CLS] text [SEP], or [CLS] text [SEP] second [SEP].

    It is one sequence, cut off at the model's limit; or, where `overlap` is given, as many windows
    as it needs, as in `Tokenizer.encode_windows`.
    """

    text: str | tuple[str, ...]  # a tuple holds the words of a text that is split already
    second: str | None = None
    overlap: int | None = None  # how many tokens a window shares with the one before

    @property
    def form(self) -> Form:
        if self.second is not None:
            return "pair"
        return "words" if isinstance(self.text, tuple) else "text"

    @property
    def content(self) -> Any:
        """As the tokenizer takes it."""
        return self.text if self.second is None else (self.text, self.second)


class Reader(Protocol):
    """What batches ask of a task."""

    name: str

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """What the task reads of an example; nothing if it has nothing to say of it."""

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
    epoch: int = 0  # of training, counted from 1; 0 where the model is evaluated
    # the items of every process, of which `items` are one; empty where one process has the batch
    shares: Sequence[Sequence[Item]] = ()
    # for each task that has targets here: where they stand, (K) or (K, ...), and what they are
    positions: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)

    def rows_of(self, task: str, i: int) -> list[int]:
        """Where the sequences that a task reads of item i stand in the layout."""
        return [self.rows[i][part] for part in self.items[i].parts_of[task]]

    def pieces(self, size: int) -> "list[Batch]":
        """The sequences in their order, `size` of them a piece; the last may have fewer. A piece is
        for the encoder alone: it has no targets, and does not know where an item's parts stand."""
        ids, types, lengths = self.input_ids, self.token_type_ids, self.layout.lengths
        found = []
        for first, start in zip(range(0, len(lengths), size), self.starts[::size], strict=True):
            own = lengths[first : first + size]
            tokens = slice(start, start + sum(own))
            found.append(
                replace(
                    self,
                    input_ids=ids[tokens],
                    token_type_ids=None if types is None else types[tokens],
                    layout=Packed(own, ids.device),
                    sequences=self.sequences[first : first + size],
                    rows=[],
                    starts=[],
                    positions={},
                    targets={},
                )
            )
        return found


def prepare(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    tasks: Sequence[Reader],
    first_number: int = 0,
) -> list[Item]:
    """Tokenize examples, as the tasks read them, with a warning if some are too long.

    What several tasks read is there once. An input that is read in windows is several parts.
    """
    inputs: list[list[Input]] = []
    asked: list[dict[str, list[int]]] = []  # each task -> which of the example's inputs it reads
    for example in examples:
        # An input and how often the same task asked for it before -> its number. A task that wants
        # a text twice gets two parts, since dropout makes two vectors of them.
        numbers: dict[tuple[Input, int], int] = {}
        wanted = {task.name: task.inputs(example) for task in tasks}
        asked.append(
            {
                name: [
                    numbers.setdefault((one, own[:k].count(one)), len(numbers))
                    for k, one in enumerate(own)
                ]
                for name, own in wanted.items()
                if own
            }
        )
        inputs.append([one for one, _ in numbers])
    sequences = iter(_encode([one for of_example in inputs for one in of_example], tokenizer))
    items: list[Item] = []
    for example, own, tasks_inputs in zip(examples, inputs, asked, strict=True):
        found = [next(sequences) for _ in own]
        ends = list(accumulate(len(windows) for windows in found))
        numbers_of = [
            range(end - len(windows), end) for end, windows in zip(ends, found, strict=True)
        ]
        parts_of = {
            name: tuple(part for number in chosen for part in numbers_of[number])
            for name, chosen in tasks_inputs.items()
        }
        parts = tuple(part for windows in found for part in windows)
        items.append(Item(example, parts, first_number + len(items), parts_of))
    return items


def _encode(inputs: Sequence[Input], tokenizer: Tokenizer) -> list[list[Tokens]]:
    """The sequences of each input, by one call for each way of reading that there is."""
    ways: dict[tuple[Form, int | None], list[int]] = {}
    for i, one in enumerate(inputs):
        ways.setdefault((one.form, one.overlap), []).append(i)
    whole: dict[Form, Callable[[list[Any]], list[Tokens]]] = {
        "words": tokenizer.encode_words,
        "text": tokenizer.encode,
        "pair": tokenizer.encode_pairs,
    }
    found: dict[int, list[Tokens]] = {}
    for (form, overlap), chosen in ways.items():
        contents = [inputs[i].content for i in chosen]
        if overlap is None:
            sequences = [[tokens] for tokens in whole[form](contents)]
        else:
            sequences = tokenizer.encode_windows(contents, overlap, form)
        found |= dict(zip(chosen, sequences, strict=True))
    return [found[i] for i in range(len(inputs))]


def collate(
    items: Sequence[Item],
    tasks: Sequence[Reader],
    device: torch.device | str = "cpu",
    epoch: int = 0,
    shares: Sequence[Sequence[Item]] = (),
) -> Batch:
    """Pack items into a batch, with the targets of these tasks. epoch, shares: as in `Batch`.

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
        epoch=epoch,
        shares=shares,
    )
    for task in tasks:
        task.add_targets(batch)
    return batch
