"""A linear layer for processors with AVX-512: PyTorch's own function and parameters, by the faster
of two libraries.

On a CPU, PyTorch multiplies float32 matrices by MKL, whose AVX-512 kernels run on Intel's
processors only, and computes convolutions by oneDNN, whose kernels run on all. On an AMD processor
with AVX-512 those take less time, half of it where a core has whole units for it (Zen 5), and a
tenth less where it has halves (Zen 4; in training, they take as long there): `python -m
tools.benchmark products`. So the layers in a `SentenceEncoder`, and so in training, compute by it:

- What may be trained is a convolution of width one, which is the same function, backward pass
  included.
- In inference mode, oneDNN's own product takes weights that were arranged for its kernels once, by
  the interface that `torch.compile` uses. That saves a tenth of a batch's time, and more than half
  of a single sentence's.

`Bert` itself stays with MKL, since oneDNN rounds more: it adds up a sum's products one after the
other, where MKL adds up blocks of them. A hidden state of MiniLM that reaches 10 is then off
transformers' by up to 1.4e-5, by MKL 9e-6.

Shapes: I inputs, O outputs, T tokens. `*` stands for however the layout lays out tokens: (B, S)
padded, or (N) packed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

# tokens; with fewer, arranging the weights in every call takes longer than oneDNN's kernels save
ENOUGH = 128


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b as a convolution of width one: (*, I), (O, I), (O) -> (*, O)."""
    # A picture T pixels high and one wide, its channels last in memory: that is the matrix as it
    # lies, without a copy.
    picture = x.reshape(1, -1, 1, x.size(-1)).permute(0, 3, 1, 2)  # (*, I) -> (1, I, T, 1)
    picture = F.conv2d(picture, weight[:, :, None, None], bias)  # (1, I, T, 1) -> (1, O, T, 1)
    return picture.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)  # (1, O, T, 1) -> (*, O)


def arranged(weight: Tensor) -> Tensor:
    """A copy of a weight, opaque to PyTorch, as oneDNN's kernels like it for batches of about a
    thousand tokens."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1024)


def arranged_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b with an `arranged` weight, and without gradients: (*, I), (O, I), (O) -> (*, O)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


steps = 0  # of all optimizers of this process


def _count_step(*_: object) -> None:
    global steps
    steps += 1


register_optimizer_step_post_hook(_count_step)


class FastLinear(nn.Linear):
    """A linear layer in another's place, with its very parameters.

    In inference mode it keeps an arranged copy of its weight, which is renewed when the weight may
    have changed: as its version tells, or its address, or an optimizer's step, since a fused one
    leaves the version as it was. A change by way of `weight.data` is seen by nobody in PyTorch, and
    so not here.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        # of the weight, and what tells its age
        self.copy: tuple[Tensor, tuple[int, int, int]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        # which would have no version
        if torch.is_inference_mode_enabled() and not self.weight.is_inference():
            return arranged_product(x, self._arranged(), self.bias)
        if x.numel() >= ENOUGH * self.in_features:
            return convolution(x, self.weight, self.bias)
        return super().forward(x)

    def _arranged(self) -> Tensor:
        age = steps, self.weight._version, self.weight.data_ptr()
        if self.copy is None or self.copy[1] != age:
            self.copy = arranged(self.weight), age
        return self.copy[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"copy": None}  # which cannot be copied or pickled


def speed_up(module: nn.Module) -> None:
    """Replace the linear layers in a module by fast ones, if this processor has AVX-512; with less,
    MKL is as fast."""
    if (
        not torch.backends.mkldnn.is_available()
        or torch.backends.cpu.get_cpu_capability() != "AVX512"
    ):
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, FastLinear(child))
        else:
            speed_up(child)
