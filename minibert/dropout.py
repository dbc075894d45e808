"""Dropout (Srivastava et al. 2014, JMLR 15), the same function as PyTorch's, with fewer random
numbers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element by this chance, and scale the others by 1 / (1 - probability).

    On a CPU `F.dropout` draws a float for each element, which takes a tenth of a training step's
    time. Sixteen random bits decide as well, and one draw has four times sixteen; so the chance is
    rounded to a multiple of 2**-16, and in half precision the scale to x's dtype.
    """
    if not probability or x.device.type != "cpu":
        return F.dropout(x, probability)
    dropped = min(round(probability * STEPS), STEPS - 1)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    # from -STEPS / 2 to below STEPS / 2
    numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)
    # Written as what x is multiplied by: a mask of bools would be converted anew, in the backward
    # pass too.
    factors = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(numbers, dropped - STEPS // 2, out=factors)
    return x * factors.mul_(STEPS / (STEPS - dropped))


class Dropout(nn.Dropout):
    """`dropout` as a module: active in training only."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
