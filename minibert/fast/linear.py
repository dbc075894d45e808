"""Linear layers by the faster of PyTorch's two libraries for matrix products on a CPU.

F.linear multiplies float32 matrices by MKL, whose AVX-512 kernels run on Intel's processors only.
F.conv2d multiplies by oneDNN, whose kernels run on all. How much that saves depends on the
processor; `python -m tools.benchmark products` measures it (figures in RESULTS.md). `FastLinear` is
for training: it computes a convolution of width one, which is the same function, its backward pass
included. In bfloat16 F.linear multiplies by oneDNN too, and nothing is left to save. What inference
does with oneDNN is in arranged.py.

oneDNN rounds a little more than MKL: it adds up the products of a sum one after the other, where
MKL adds up blocks of them. Where a hidden state of MiniLM reaches 10, it is off transformers' by up
to 1.4e-5, and 9e-6 with MKL. So `Bert` itself stays with PyTorch's own layers.

Shapes: I inputs, O outputs, T tokens. `*` stands for the tokens, as the layout arranges them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 128  # tokens; for fewer, arranging the weights in each call takes longer than oneDNN saves


def has_avx512() -> bool:
    """Whether PyTorch computes with AVX-512 and oneDNN here. With less, MKL is as fast."""
    return torch.backends.mkldnn.is_available() and capability() == "AVX512"


def capability() -> str:
    """The instructions that PyTorch uses, "AVX512" say. ATEN_CPU_CAPABILITY can limit them."""
    return torch.backends.cpu.get_cpu_capability()


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b as a convolution of width one: (*, I), (O, I), (O) -> (*, O)."""
    # The matrix is viewed, without a copy, as an image T pixels high and one wide, with its I
    # channels last in memory.
    image = x.reshape(1, -1, 1, x.size(-1)).permute(0, 3, 1, 2)  # (*, I) -> (1, I, T, 1)
    image = F.conv2d(image, weight[:, :, None, None], bias)  # (1, I, T, 1) -> (1, O, T, 1)
    return image.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)  # (1, O, T, 1) -> (*, O)


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b, (*, I), (O, I), (O) -> (*, O): a convolution for float32 on a CPU and enough
    tokens, else `F.linear`."""
    in_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    is_large = x.numel() >= FEW * x.size(-1)
    if x.device.type == "cpu" and in_float32 and is_large and not torch.compiler.is_compiling():
        return convolution(x, weight, bias)
    return F.linear(x, weight, bias)


class FastLinear(nn.Linear):
    """nn.Linear by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def can_be_joined(layer: nn.Module) -> bool:
    """Whether a layer is nothing but its weight and bias: PyTorch's own class, without a hook, and
    without a `forward` of its own or a weight that something computes in each call, as pruning
    does."""
    hooks = (
        layer._forward_pre_hooks,
        layer._forward_hooks,
        layer._backward_pre_hooks,
        layer._backward_hooks,
    )
    return (
        type(layer) in (nn.Linear, FastLinear)
        and "forward" not in layer.__dict__
        and not any(hooks)
        and isinstance(layer.weight, nn.Parameter)
        and isinstance(layer.bias, nn.Parameter)
    )
