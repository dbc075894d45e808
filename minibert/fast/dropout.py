"""Dropout (Srivastava et al. 2014, JMLR 15) with fewer random numbers than PyTorch's."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 2**16  # of chances that sixteen bits can tell apart


def dropout(x: Tensor, probability: float) -> Tensor:
    """Set each element to 0 by this chance, and scale the others by 1 / (1 - probability).

    On a CPU `F.dropout` draws a float for each element, which takes a tenth of a training step.
    Sixteen random bits decide as well, and one draw has four times sixteen. So the chance is
    rounded to a multiple of 1 / LEVELS. In half precision the scale is rounded to x's dtype.
    """
    dropped = round(probability * LEVELS)
    if probability in (0, 1) or dropped == LEVELS or x.device.type != "cpu":
        return F.dropout(x, probability)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)  # -LEVELS / 2 to LEVELS / 2 - 1
    # The factors are written as floats: a mask of bools would be converted in each pass.
    factors = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(numbers, dropped - LEVELS // 2, out=factors)
    return x * factors.mul_(LEVELS / (LEVELS - dropped))


class FastDropout(nn.Dropout):
    """`dropout` as a module: active in training only."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
