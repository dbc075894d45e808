"""Attention, faster: the same function as `attention` in model.py, and fewer calls of it.

| which attention runs      | when                                                                 |
| ------------------------- | -------------------------------------------------------------------- |
| `Attention` of model.py   | in a Bert by itself: the formula                                     |
| `FastAttention`           | in `encode` on a CPU: the formula up to SHORT tokens, else the fused |
|                           | kernel                                                               |
| `ArrangedAttention`       | the same, in float32 or bfloat16, where products are arranged        |
| `GroupedAttention`        | in `encode` on a GPU: the fused kernel                               |
| `GroupedAttention`        | in training: `dropped_attention` on a CPU with dropout, the fused    |
|                           | kernel on a GPU, else as `FastAttention`                             |

Shapes: N packed tokens, H heads, W width of a head, G sentences of a group, L their length, or the
        longest's.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.fast.dropout import dropout as fast_dropout
from minibert.fast.linear import FastLinear, can_be_joined, capability, product
from minibert.layout import Layout, Packed
from minibert.model import Attention

# Tokens of a sentence, up to which a CPU is faster by the formula. With AVX2 the formula takes as
# long as the fused kernel at any length, and the kernel's last bits depend on the thread count.
SHORT = math.inf if capability() == "AVX2" else 64
VECTOR = 16  # float32 numbers that AVX-512 computes at once


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`minibert.model.attention`, by PyTorch's fused kernel or by the formula.

    The fused kernel never stores the (L, L) probabilities. But on a CPU it has no dropout, and it
    starts again for each head of each sentence, which takes too long for short sentences. Its
    backward pass in bfloat16 takes four times as long as the formula's.
    """
    on_cpu = query.device.type == "cpu"
    if on_cpu and dropout:
        return dropped_attention(query, key, value, mask, bias, dropout)
    learns_in_half = query.requires_grad and query.dtype == torch.bfloat16
    is_short = mask is None and query.size(2) <= SHORT
    if not (on_cpu and (learns_in_half or is_short)):
        if mask is not None:
            mask = mask[:, None, None, :]  # (G, L) -> (G, 1, 1, L)
            bias = mask if bias is None else bias.masked_fill(~mask, -math.inf)
        return F.scaled_dot_product_attention(query, key, value, bias, dropout)  # (G, H, L, W)
    # Contiguous, so that a sentence takes the same product, with the same bits, alone and in a
    # group.
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()  # (G, H, L, W)
    scores = query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)  # (G, H, L, L)
    if scores.dtype.itemsize == 2:
        scores = scores.float()  # (G, H, L, L): half precision is for products, not for sums
    if bias is not None:
        scores = scores + bias  # (G, H, L, L)
    if mask is not None:
        mask = mask[:, None, None, :]  # (G, L) -> (G, 1, 1, L)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # (G, H, L, L)
    if scores.size(-1) < VECTOR:
        # PyTorch's kernel computes rows shorter than a vector number by number, which takes twice
        # as long as these steps over all rows at once. Subtracting a row's largest number prevents
        # overflow; it changes neither the softmax nor its gradient.
        powers = (scores - scores.amax(dim=-1, keepdim=True).detach()).exp()  # (G, H, L, L)
        probabilities = powers / powers.sum(dim=-1, keepdim=True)  # (G, H, L, L)
    else:
        probabilities = scores.softmax(-1)
    if mask is not None:
        probabilities = probabilities * mask  # (G, H, L, L)
    return probabilities.to(value.dtype) @ value  # (G, H, L, L), (G, H, L, W) -> (G, H, L, W)


def dropped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout: float,
) -> Tensor:
    """The formula for training on a CPU, in few passes over the (L, L) scores, forward and back:
    mask and bias are one sum, and few random numbers decide what is dropped."""
    scores = query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)  # (G, H, L, L)
    sums = torch.promote_types(scores.dtype, torch.float32)  # half precision is for products
    if bias is None:
        bias = scores.new_zeros((), dtype=sums)
    if mask is not None:
        mask = mask[:, None, None, :]  # (G, L) -> (G, 1, 1, L)
        bias = bias.masked_fill(~mask, torch.finfo(sums).min)
    probabilities = (scores + bias).softmax(-1, dtype=sums)  # (G, H, L, L)
    if mask is not None and not mask.any(-1).all():
        probabilities = probabilities * mask  # a sentence without any key gets 0
    probabilities = fast_dropout(probabilities, dropout)  # (G, H, L, L)
    return probabilities.to(value.dtype) @ value  # (G, H, L, L), (G, H, L, W) -> (G, H, L, W)


class FastAttention(Attention):
    """Attention by the faster of two ways."""

    attention = staticmethod(attention)


class GroupedAttention(FastAttention):
    """Attention in fewer calls: query, key and value come from one product, and sentences of
    similar length share one call, and are padded for it.

    With dropout a call is a dozen small operations, forward and back. A batch of 32 short sentences
    spends less time on some padding than on a call for each of a dozen lengths. A GPU gets the same
    few calls, with dropout or without (not measured). On a CPU without dropout, a call for each
    length is as fast, and nothing is padded.
    """

    def context(self, x: Tensor, layout: Layout) -> Tensor:
        drops = self.training and self.dropout.p > 0
        if not isinstance(layout, Packed) or not (drops or x.device.type != "cpu"):
            return super().context(x, layout)
        layout = similar_lengths(tuple(layout.lengths), x.device)
        contexts = []
        for (group,), mask in layout.groups(self.stacked(x)):
            # One copy arranges all three as the products want them.
            heads = group.permute(2, 0, 3, 1, 4).contiguous()  # (G, L, 3, H, W) -> (3, G, H, L, W)
            query, key, value = heads.transpose(2, 3)  # (G, L, H, W)
            contexts.append(self.attend(query, key, value, mask))  # (G, L, H, W)
        context = layout.join(contexts)  # (N, H, W)
        return context.flatten(-2)  # (N, H, W) -> (N, D)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.stacked(x).unbind(-3)  # (*, H, W)
        return query, key, value

    def stacked(self, x: Tensor) -> Tensor:
        """Query, key and value of each head, by one product where it can be: (*, 3, H, W)."""
        layers = self.query, self.key, self.value
        if not all(map(can_be_joined, layers)):
            return torch.stack(super().project(x), -3)
        weight = torch.cat([layer.weight for layer in layers])  # (3 * D, D)
        bias = torch.cat([layer.bias for layer in layers])  # (3 * D)
        multiply = product if isinstance(self.query, FastLinear) else F.linear
        projected = multiply(x, weight, bias)  # (*, D) -> (*, 3 * D)
        return projected.unflatten(-1, (3, self.num_heads, -1))  # (*, 3, H, W)


class SimilarLengths(Packed):
    """A `Packed` whose groups are neighbours of similar length, padded to the same length: a
    multiple of VECTOR, which the kernels take in whole vectors, and of an eighth of a power of two,
    so that there are few groups."""

    def __init__(self, lengths: Sequence[int], device: torch.device | str | None = None) -> None:
        super().__init__(lengths, device)
        self.masks: list[Tensor] = []  # of each group, (G, L) bool
        self.places: list[Tensor] = []  # where its tokens stand among the G * L
        for length, group in groupby(lengths, rounded_up):
            ruler = torch.arange(length, device=device)
            self.masks.append(ruler < torch.tensor([*group], device=device)[:, None])
            self.places.append(self.masks[-1].flatten().nonzero().squeeze(1))

    def groups(self, *tensors: Tensor) -> Iterator[tuple[Sequence[Tensor], Tensor | None]]:
        """The groups of sentences: their tensors, (G, L, ...) each, and the mask, (G, L)."""
        sizes = [places.numel() for places in self.places]
        splits = (x.split(sizes) for x in tensors)
        for mask, places, *parts in zip(self.masks, self.places, *splits, strict=True):
            # Copied to their places, and not indexed by them: the gradient of a copy is a copy,
            # that of indexing is a sum.
            yield (
                [
                    part.new_zeros(mask.numel(), *part.shape[1:])
                    .index_copy_(0, places, part)
                    .unflatten(0, mask.shape)
                    for part in parts
                ],
                mask,
            )

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """The opposite of `groups`, for one tensor: (G, L, ...) each -> (N, ...)."""
        pairs = zip(groups, self.places, strict=True)
        return torch.cat([group.flatten(0, 1).index_select(0, places) for group, places in pairs])


def rounded_up(length: int) -> int:
    """The length to which a sentence of so many tokens is padded: at most a quarter more, or
    VECTOR."""
    step = max(VECTOR, 2 ** length.bit_length() // 8)
    return -(-length // step) * step


@lru_cache(maxsize=8)
def similar_lengths(lengths: tuple[int, ...], device: torch.device) -> SimilarLengths:
    """The groups of a batch, which all layers share."""
    return SimilarLengths(lengths, device)
