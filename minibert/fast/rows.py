"""A compiled model, called as the encoder calls a Bert.

Shapes: B sentences, S positions, N packed tokens, D hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minibert.layout import Packed


class InRows(nn.Module):
    """Hands packed tokens to a model as padded rows.

    A compiled model needs a graph for each list of lengths, and a minute for each graph. Rows of
    any number and any length share one graph.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, layout: Packed) -> Tensor:
        sentences = input_ids.split(layout.lengths)
        rows = pad_sequence(sentences, batch_first=True)  # (B, S)
        lengths = torch.tensor(layout.lengths, device=rows.device)
        mask = torch.arange(layout.longest, device=rows.device) < lengths[:, None]  # (B, S)
        return self.model(rows, mask)[mask]  # (B, S), (B, S) -> (N, D)
