"""Layers that a sentence vector passes after pooling, in checkpoints such as LaBSE.

Shapes: B sentences, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

from minibert.files import InputError


class Dense(nn.Module):
    """A linear layer and an activation on a sentence vector, as sentence-transformers has it."""

    def __init__(self, inputs: int, outputs: int, bias: bool, activation: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias)
        self.activation = activation

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        return self.activation(self.linear(vectors))


class AfterPooling(nn.Sequential):
    """Each layer is a `Dense` or an nn.LayerNorm; most models have none. They compute in the dtype
    of their own weights, which is float32."""

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        if not len(self):
            return vectors
        vectors = vectors.to(next(self.parameters()).dtype)
        if vectors.device.type != "cpu":
            return super().forward(vectors)
        # One after the other: in a larger product, a row's bits depend on the number of rows.
        return torch.stack([super(AfterPooling, self).forward(vector) for vector in vectors])

    def width(self, pooled: int) -> int:
        """How many numbers their results have, if pooled vectors have so many. Raises InputError,
        naming the layer, if they do not fit each other."""
        for number, layer in enumerate(self, start=1):
            if isinstance(layer, Dense):
                wanted, made = layer.linear.in_features, layer.linear.out_features
            else:
                assert isinstance(layer, nn.LayerNorm)
                wanted = made = layer.normalized_shape[0]
            if wanted != pooled:
                raise InputError(
                    f"layer {number} after the pooling ({type(layer).__name__}) takes vectors of "
                    f"{wanted} numbers, and it gets {pooled}"
                )
            pooled = made
        return pooled
