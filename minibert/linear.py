"""A linear layer for processors with AVX-512: PyTorch's own function and parameters, by the faster of two libraries.

On a CPU, PyTorch multiplies float32 matrices by MKL, whose AVX-512 kernels run on Intel's processors only, and computes
convolutions by oneDNN, whose kernels run on all. A linear layer is a convolution of width one: asked for as that, it
takes half the time on an AMD processor with AVX-512 (`python -m tools.benchmark products`).

It is not in model.py, since oneDNN rounds more: it adds up a sum's products one after the other, where MKL adds up
blocks of them. A hidden state of MiniLM that reaches 10 is then up to 1.4e-5 off transformers', and else up to 7e-6.
`Bert` has the numbers of the library that people check it against; `SentenceEncoder`, and so training, has the speed.

Shapes: I inputs, O outputs, T tokens. `*` stands for however the layout lays out tokens: (B, S) padded, or (N) packed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ENOUGH = 128  # tokens; with fewer, oneDNN's rearranging of the weights takes longer than its kernels save


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b as a convolution of width one: (*, I), (O, I), (O) -> (*, O)."""
    # A picture T pixels high and one wide, its channels last in memory: that is the matrix as it lies, without a copy.
    picture = x.reshape(1, -1, 1, x.size(-1)).permute(0, 3, 1, 2)  # (*, I) -> (1, I, T, 1)
    picture = F.conv2d(picture, weight[:, :, None, None], bias)  # (1, I, T, 1) -> (1, O, T, 1)
    return picture.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)  # (1, O, T, 1) -> (*, O)


class FastLinear(nn.Linear):
    """A linear layer in another's place, with its very parameters."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        enough = x.numel() >= ENOUGH * self.in_features
        if enough and x.device.type == "cpu" and x.dtype == torch.float32:
            return convolution(x, self.weight, self.bias)
        return super().forward(x)


def speed_up(module: nn.Module) -> None:
    """Replace the linear layers in a module by fast ones, if this processor has AVX-512; with less, MKL is as fast."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, FastLinear(child))
        else:
            speed_up(child)
