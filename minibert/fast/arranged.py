"""Inference with weights that are arranged for the processor once: fewer and faster products.

oneDNN multiplies by a copy of the weights in the order in which its kernels read them. That saves a
tenth of a batch's time in float32, and up to half of a single sentence's. Query, key and value come
from one product, and GELU is computed within the product that it follows, while its numbers are in
registers. None of this changes a bit of oneDNN's own float32 result.

In bfloat16 a number has the eight leading bits of a float32. The products, whose sums are float32,
are the only thing that it is good enough for: the residual stream, the norms, the sums of the
softmax and the pooling stay in float32. Kept in bfloat16 altogether, MiniLM's vectors have a lowest
cosine of 0.996 to their float32 selves; with products alone 0.9999.

A row of a float32 product has the same bits however many rows there are, from two on. (For a single
row of more than 1,024 numbers oneDNN has another kernel; but a text has two tokens at least.) In
bfloat16, the order in which AMX adds depends on the number of rows, and on that of threads. So
there all products have BLOCK rows, and one thread.

Shapes: I inputs, O outputs, T tokens, D hidden, F feed-forward, H heads, W width of a head. `*`
stands for the tokens, as the layout arranges them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minibert.fast.attention import FastAttention
from minibert.fast.linear import capability
from minibert.model import FeedForward

BLOCK = 128  # rows of a bfloat16 product


def has_arranged_products() -> bool:
    """Whether oneDNN's products with arranged weights are at least as fast as MKL's here."""
    return torch.backends.mkldnn.is_available() and capability() in ("AVX2", "AVX512")


class Product:
    """x W^T + b of one linear layer, or of several with the same input, for inference mode.

    dtype: of the numbers that are multiplied, float32 or bfloat16. gelu: apply GELU to the result.
    This is the interface to oneDNN that `torch.compile` itself uses.
    """

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype, gelu: bool = False) -> None:
        weight = torch.cat([layer.weight.detach() for layer in layers])  # of all O outputs
        # The order that suits about a thousand tokens.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), 1024)
        self.bias = torch.cat([layer.bias.detach() for layer in layers]).to(dtype)  # (O)
        self.dtype, self.activation = dtype, "gelu" if gelu else "none"

    def __call__(self, x: Tensor) -> Tensor:
        """(*, I) -> (*, O) in `dtype`."""
        multiply = torch.ops.mkldnn._linear_pointwise
        products = [
            multiply(block, self.weight, self.bias, self.activation, [], "none")
            for block in blocks(x, self.dtype)
        ]
        return from_blocks(products, x)  # (*, O)


def blocks(x: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """The tokens of x, (*, I), as products take them: in bfloat16 (BLOCK, I) at a time, the last
    filled up with zeros; in float32 all at once."""
    rows = x.flatten(0, -2)  # (*, I) -> (T, I)
    if dtype == torch.float32:
        return [rows]
    count, missing = len(rows), -len(rows) % BLOCK
    if missing or rows.dtype != dtype:
        whole = rows.new_empty(count + missing, rows.size(-1), dtype=dtype)
        whole[:count], whole[count:] = rows, 0
        rows = whole
    return rows.split(BLOCK)


def from_blocks(products: list[Tensor], x: Tensor) -> Tensor:
    """The products of the blocks of x, as one tensor: (BLOCK, O) each -> (*, O)."""
    whole = products[0] if len(products) == 1 else torch.cat(products)
    return whole[: x.shape[:-1].numel()].unflatten(0, x.shape[:-1])  # (*, O)


class ArrangedLinear(nn.Linear):
    """nn.Linear with an arranged copy of its weight. Its result is float32 in every precision."""

    product: Product | None

    def arrange(self, dtype: torch.dtype) -> None:
        fixed = isinstance(self.weight, nn.Parameter) and isinstance(self.bias, nn.Parameter)
        self.product = Product([self], dtype) if fixed else None

    def forward(self, x: Tensor) -> Tensor:
        if self.product is None or torch.is_autocast_enabled("cpu"):
            return super().forward(x.float())
        return self.product(x).float()


class ArrangedAttention(FastAttention):
    """Attention whose query, key and value come from one product."""

    projection: Product

    def arrange(self, dtype: torch.dtype) -> None:
        self.projection = Product([self.query, self.key, self.value], dtype)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        if torch.is_autocast_enabled("cpu"):
            return super().project(x)
        heads = 3 * self.num_heads, -1
        projected = self.projection(x).unflatten(-1, heads)  # (*, D) -> (*, 3 * H, W)
        return projected.chunk(3, dim=-2)


class ArrangedFeedForward(FeedForward):
    """Feed-forward with GELU inside its first product. Each block passes both products while it is
    in the caches."""

    dtype: torch.dtype
    expansion: Product
    contraction: Product

    def arrange(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.expansion = Product([self.intermediate], dtype, gelu=True)
        self.contraction = Product([self.output], dtype)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        products = [self.contraction(self.expansion(block)) for block in blocks(x, self.dtype)]
        return from_blocks(products, x).float()  # (*, D)
