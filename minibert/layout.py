"""How the tokens of a batch lie in memory.

In BERT only attention looks across tokens; embedding, layer norm, feed-forward and dropout treat
every token alone and do not care whether their input is (B, S, D) or (N, D). So a batch carries a
layout, and only attention and pooling ask it anything:

- `Padded`: the picture in every paper. Sentences are rows of equal length, padding is masked out.
- `Packed`: no padding exists. All real tokens of all sentences stand one after the other.

Both give the same numbers, so the model is written once.

Shapes: B sentences, S positions, N packed tokens, D hidden, H heads, W width of a head (D = H * W),
        G sentences of an attention call, L their length, or the longest's.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.dropout import dropout as drop

SHORT = 64  # tokens of a sentence, up to which a CPU attends by the explicit path
VECTOR = 16  # float32 numbers that AVX-512 computes at once


def softmax(scores: Tensor) -> Tensor:
    """softmax over the last dimension: (..., L) -> (..., L).

    A CPU's kernel computes rows shorter than a vector number by number, which takes twice as long
    as the five steps below over all rows at once. In half precision the kernel alone keeps its sums
    in float32.
    """
    if (
        not 0 < scores.size(-1) < VECTOR
        or scores.device.type != "cpu"
        or scores.dtype != torch.float32
    ):
        return scores.softmax(dim=-1)
    # Any number taken from a whole row leaves its softmax, and the gradient, as they are; the
    # largest ends overflow.
    powers = (scores - scores.amax(dim=-1, keepdim=True).detach()).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def attention_probabilities(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(W)): how much each position looks at each other one.

    query, key: (G, H, L, W) float. mask: (G, 1, 1, L) bool, True where a token may be looked at.
    Returns (G, H, L, L); each row sums to 1, or is all 0 where nothing may be looked at.
    Source: Vaswani et al. 2017, equation 1 (arXiv:1706.03762).
    """
    # Scaled before the product, since in half precision the product itself may overflow.
    scores = (
        query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)
    )  # (G, H, L, W) -> (G, H, L, L)
    if mask is None:
        return softmax(scores)
    # Filling with the dtype's own minimum, instead of adding -10000 as the original does, neither
    # overflows in half precision nor leaves anything to the masked positions: exp(minimum - row's
    # maximum) is exactly 0. The minimum is finite, so a fully masked row is no NaN here, and the
    # last product makes it 0.
    return softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min)) * mask


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention as the paper writes it: the reference for `fused_attention`, which is what runs.

    query, key, value: (G, H, L, W) float. mask: (G, 1, 1, L) bool. dropout: the chance that a
    probability is dropped. Returns (G, H, L, W). Source: Vaswani et al. 2017, section 3.2.1;
    dropout on the probabilities as in the original BERT's `attention_layer`.
    """
    probabilities = drop(attention_probabilities(query, key, mask), dropout)  # (G, H, L, L)
    return probabilities @ value  # (G, H, L, L) -> (G, H, L, W)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The same function as `explicit_attention`, in one kernel that never stores the (L, L)
    probabilities.

    But no kernel of a CPU has dropout: PyTorch would then take the same steps as the explicit path,
    and some more.
    """
    if dropout and query.device.type == "cpu":
        return explicit_attention(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class Padded:
    """Sentences as rows of equal length; tensors are (B, S, D).

    attention_mask: (B, S), any integer, bool or float dtype; non-zero marks a real token. Zeros may
    stand anywhere.
    """

    def __init__(self, attention_mask: Tensor) -> None:
        if attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask must be (B, S), not of shape {tuple(attention_mask.shape)}"
            )
        self.mask = attention_mask.bool()  # (B, S)
        self.shape = attention_mask.shape
        self.longest = attention_mask.size(1)
        # BERT counts every column as a position, also a masked one.
        self.positions = torch.arange(self.longest, device=attention_mask.device)  # (S)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """Let the tokens of each sentence look at each other: three (B, S, H, W) -> (B, S, H,
        W)."""
        query, key, value = (
            x.transpose(1, 2) for x in (query, key, value)
        )  # (B, S, H, W) -> (B, H, S, W)
        context = fused_attention(query, key, value, self._keys_mask(), dropout)  # (B, H, S, W)
        return context.transpose(1, 2)  # (B, H, S, W) -> (B, S, H, W)

    def attention_probabilities(self, query: Tensor, key: Tensor) -> Tensor:
        """By the explicit path, for those who look inside: two (B, S, H, W) -> (B, H, S, S)."""
        return attention_probabilities(
            query.transpose(1, 2), key.transpose(1, 2), self._keys_mask()
        )  # (B, H, S, S)

    def mean(self, x: Tensor) -> Tensor:
        """The mean over each sentence's real tokens: (B, S, D) -> (B, D); zeros for a sentence
        without any."""
        weights = self.mask.unsqueeze(-1).to(x.dtype)  # (B, S) -> (B, S, 1)
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)  # (B, S, D) -> (B, D)

    def max(self, x: Tensor) -> Tensor:
        """The largest value of each dimension over the real tokens: (B, S, D) -> (B, D); zeros as
        in `mean`."""
        real = self.mask.unsqueeze(-1)  # (B, S) -> (B, S, 1)
        largest = x.masked_fill(~real, torch.finfo(x.dtype).min).amax(1)  # (B, S, D) -> (B, D)
        return largest.masked_fill(~self.mask.any(1, keepdim=True), 0)

    def first(self, x: Tensor) -> Tensor:
        """The first token of each sentence, which is [CLS]: (B, S, D) -> (B, D)."""
        return x[:, 0]  # (B, S, D) -> (B, D)

    def _keys_mask(self) -> Tensor:
        return self.mask[:, None, None, :]  # (B, S) -> (B, 1, 1, S)


class Packed:
    """All real tokens of all sentences, one sentence after the other; tensors are (N, D).

    lengths: tokens of each sentence, at least 1. Any order is right; sentences of equal length that
    stand together share one attention call, so sorting by length is fast.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str | None = None) -> None:
        if min(lengths, default=0) < 1:
            raise ValueError(
                "Packed needs at least one sentence, and every sentence at least one token"
            )
        self.lengths = list(lengths)
        self.runs = [(length, len(list(run))) for length, run in groupby(lengths)]
        self.longest = max(lengths)
        ruler = torch.arange(self.longest, device=device)
        self.positions = torch.cat(
            [ruler[:length].repeat(count) for length, count in self.runs]
        )  # (N)
        self.shape = self.positions.shape

    def sentences(self, x: Tensor) -> Iterator[Tensor]:
        """Views of neighbours of equal length, without a copy: (N, ...) -> (G, L, ...) each."""
        # One split and no slices: the gradient of a slice is a whole x of zeros, that of a split
        # one concatenation.
        runs = x.split([length * count for length, count in self.runs])
        for run, (length, count) in zip(runs, self.runs, strict=True):
            yield run.unflatten(0, (count, length))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """Let the tokens of each sentence look at each other: three (N, H, W) -> (N, H, W)."""
        if dropout or query.device.type != "cpu":
            return self._attend_in_rows(query, key, value, dropout)
        contexts = []
        for q, k, v in zip(*map(self.sentences, (query, key, value)), strict=True):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (G, L, H, W) -> (G, H, L, W)
            if q.size(2) <= SHORT:
                # A CPU's fused kernel starts anew for each head of each sentence, which short ones
                # do not repay. Contiguous, or a sentence alone would take another product, with
                # other last bits, than among others.
                context = explicit_attention(
                    q.contiguous(), k.contiguous(), v.contiguous()
                )  # (G, H, L, W)
            else:
                context = fused_attention(q, k, v)
            contexts.append(context.transpose(1, 2).flatten(0, 1))  # (G, H, L, W) -> (G * L, H, W)
        return torch.cat(contexts)  # (N, H, W)

    def _attend_in_rows(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """The same by fewer calls, each of sentences of similar length, padded to the longest of
        them.

        With dropout a call is two dozen small operations, forward and back: a batch of 32 short
        sentences spends less on some padding here than on a call for each of a dozen lengths. So
        does a GPU, which waits for every call.
        """
        sizes = [places.numel() for places, _ in self.rows]
        contexts = []
        for (places, mask), *parts in zip(
            self.rows, *(x.split(sizes) for x in (query, key, value)), strict=True
        ):
            shape = (mask.size(0), mask.size(-1), *query.shape[1:])
            q, k, v = (
                # copied to places, not indexed by them: the gradient of the one is a copy, of the
                # other a sum
                x.new_zeros(shape)
                .flatten(0, 1)
                .index_copy(0, places, x)
                .view(shape)
                .transpose(1, 2)
                for x in parts
            )  # (G, H, L, W)
            context = fused_attention(q, k, v, mask, dropout).transpose(
                1, 2
            )  # (G, H, L, W) -> (G, L, H, W)
            contexts.append(context.flatten(0, 1).index_select(0, places))
        return torch.cat(contexts)  # (N, H, W)

    @cached_property
    def rows(self) -> list[tuple[Tensor, Tensor]]:
        """Groups of neighbours of similar length: each token's place among the G * L, and the keys'
        (G, 1, 1, L)."""
        device = self.positions.device
        groups: list[list[int]] = []
        for length in self.lengths:
            if not groups or not groups[-1][0] / 2 <= length <= groups[-1][0] * 2:
                groups.append([])
            groups[-1].append(length)
        rows = []
        for group in groups:
            real = (
                torch.arange(max(group), device=device)
                < torch.tensor(group, device=device)[:, None]
            )
            rows.append((real.flatten().nonzero().squeeze(1), real[:, None, None]))
        return rows

    def mean(self, x: Tensor) -> Tensor:
        """The mean over each sentence: (N, D) -> (B, D)."""
        return torch.cat([sentences.mean(1) for sentences in self.sentences(x)])  # (N, D) -> (B, D)

    def max(self, x: Tensor) -> Tensor:
        """The largest value of each dimension over a sentence: (N, D) -> (B, D)."""
        return torch.cat([sentences.amax(1) for sentences in self.sentences(x)])  # (N, D) -> (B, D)

    def first(self, x: Tensor) -> Tensor:
        """The first token of each sentence, which is [CLS]: (N, D) -> (B, D)."""
        return torch.cat([sentences[:, 0] for sentences in self.sentences(x)])  # (N, D) -> (B, D)


Layout = Padded | Packed
