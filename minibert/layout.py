"""How the tokens of a batch are arranged in memory.

In BERT only three things look beyond a single token: its position, attention, and pooling.
Everything else works token by token, and does not care whether its input is (B, S, D) or (N, D).
So a batch carries a layout, and those three ask it:

- `Padded`: the picture in every paper. Sentences are rows of equal length; padding is masked out.
- `Packed`: all real tokens of all sentences, one sentence after the other. There is no padding.

Both give the same numbers where padding stands on the right. (`Padded` counts columns as positions,
so padding on the left moves a sentence to other positions, as in other libraries.)

Shapes: B sentences, S positions, N packed tokens, G sentences of a group, L their common length.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor


class Padded:
    """Sentences as rows of equal length: tensors are (B, S, ...).

    attention_mask: (B, S), any dtype; non-zero marks a real token. Zeros may stand anywhere.
    """

    def __init__(self, attention_mask: Tensor) -> None:
        if attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask must be (B, S), not of shape {tuple(attention_mask.shape)}"
            )
        self.mask = attention_mask.bool()  # (B, S)
        self.shape = attention_mask.shape
        self.longest = attention_mask.size(1)
        self.positions = torch.arange(self.longest, device=attention_mask.device)  # (S)

    def groups(self, *tensors: Tensor) -> Iterator[tuple[Sequence[Tensor], Tensor | None]]:
        """The whole batch is one group: its tensors, (B, S, ...) each, and its mask, (B, S)."""
        yield tensors, self.mask

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """The opposite of `groups`, for one tensor: (B, S, ...)."""
        return groups[0]


class Packed:
    """All real tokens of all sentences, one sentence after the other: tensors are (N, ...).

    lengths: the number of tokens of each sentence, at least 1. Any order is right. Neighbours of
    equal length form a group, so sorting the sentences by length gives fewer groups.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str | None = None) -> None:
        if min(lengths, default=0) < 1:
            raise ValueError("Packed needs sentences, and each of them at least one token")
        self.lengths = list(lengths)
        self.runs = [(len(list(run)), length) for length, run in groupby(lengths)]
        self.longest = max(lengths)
        ruler = torch.arange(self.longest, device=device)
        self.positions = torch.cat([ruler[:length].repeat(count) for count, length in self.runs])
        self.shape = self.positions.shape

    def groups(self, *tensors: Tensor) -> Iterator[tuple[Sequence[Tensor], Tensor | None]]:
        """The groups of sentences: their tensors, (G, L, ...) each, and no mask."""
        sizes = [count * length for count, length in self.runs]
        for run, *parts in zip(self.runs, *(x.split(sizes) for x in tensors), strict=True):
            yield [part.unflatten(0, run) for part in parts], None

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """The opposite of `groups`, for one tensor: (G, L, ...) each -> (N, ...)."""
        return torch.cat([group.flatten(0, 1) for group in groups])


Layout = Padded | Packed
