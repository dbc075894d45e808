"""The word embeddings that a run can change.

A data set uses some thousand of a vocabulary's words. The rows of all others have a gradient of
zero in every step, so Adam leaves them alone, and only weight decay moves them, all by the same
factor. A run therefore holds, differentiates and optimizes the rows of its own words: less than
half of MiniLM's parameters, with the same result.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class UsedWords(nn.Embedding):
    """The rows of a word table that some texts use, in the table's place; ids stay the
    vocabulary's.

    ids: all that will ever be looked up; another one raises IndexError. weight: (R + 1, D), the R
    rows used, then a row of ones that is never looked up: it decays beside them, and so is at any
    time what all other rows are to be multiplied by. Whatever freezes, skips a step or resumes does
    it to that row too.
    """

    def __init__(self, table: nn.Embedding, ids: Iterable[int]) -> None:
        everything = table.weight.detach()  # (V, D)
        used = torch.tensor(sorted(set(ids)), device=everything.device)  # (R)
        rows = everything[used]
        super().__init__(
            len(used) + 1, table.embedding_dim, _weight=torch.cat([rows, torch.ones_like(rows[:1])])
        )
        self.used, self.everything, self.pad = used, everything, table.padding_idx
        self.numbers = torch.full((len(everything),), -1, device=used.device)  # (V), each id's row
        self.numbers[used] = torch.arange(len(used), device=used.device)

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(self.numbers[input_ids])  # (*) -> (*, D)

    def whole(self) -> nn.Embedding:
        """The table that training all of its rows would have led to."""
        weight = self.everything * self.weight[-1].detach()
        weight[self.used] = self.weight[:-1].detach()
        return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.pad)
