"""A model whose products are computed in bfloat16 by PyTorch's autocast."""

from typing import Any

import torch
from torch import Tensor, nn


class InBfloat16(nn.Module):
    """Calls a model under autocast (Micikevicius et al. 2018, arXiv:1710.03740): on a graphics
    card, or where it is compiled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, **more: Any) -> Tensor:
        with torch.autocast(input_ids.device.type, torch.bfloat16):
            return self.model(input_ids, **more)
