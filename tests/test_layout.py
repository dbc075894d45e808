"""Attention and pooling in both layouts, against loops in plain numpy and against each other.

Evidence: the formula of Vaswani et al. 2017 written as loops over sentences, heads and positions,
in float64.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from minibert.heads import POOLINGS, pool
from minibert.layout import (
    Packed,
    Padded,
    attention_probabilities,
    explicit_attention,
    fused_attention,
    softmax,
)

Attention = Callable[..., Tensor]
HALF = [torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1, 1), (3, 2, 5, 4), (2, 3, 70, 8), (1, 2, 300, 16)]  # (B, H, S, W)
LENGTHS = [3, 1, 7, 7, 2, 7, 7]


def attention_by_loops(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Float64, one query at a time, over the allowed keys alone: a masked one takes no part in any
    way."""
    result = np.zeros(value.shape)
    q, k, v = (x.double().numpy() for x in (query, key, value))
    for b, h, i in np.ndindex(*query.shape[:3]):
        allowed = np.flatnonzero(mask[b].numpy())
        if len(allowed):
            scores = k[b, h, allowed] @ q[b, h, i] / np.sqrt(query.shape[-1])
            weights = np.exp(scores - scores.max())
            result[b, h, i] = weights @ v[b, h, allowed] / weights.sum()
    return torch.from_numpy(result)


def random_attention(
    shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Tensor]:
    """Query, key, value (B, H, S, W), and a mask (B, S) with holes; the first token of a sentence
    is never masked."""
    mask = torch.rand(shape[0], shape[2]) < 0.6
    mask[:, 0] = True
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(3)], mask


def keys_mask(mask: Tensor) -> Tensor:
    return mask[:, None, None, :]


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_explicit_attention_is_the_papers_formula(shape: tuple[int, int, int, int]) -> None:
    inputs, mask = random_attention(shape, torch.float64)
    everything = torch.ones_like(mask)
    close = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(
        explicit_attention(*inputs), attention_by_loops(*inputs, everything), **close
    )
    torch.testing.assert_close(
        explicit_attention(*inputs, keys_mask(mask)), attention_by_loops(*inputs, mask), **close
    )


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_softmax_and_its_gradient_are_pytorchs(length: int, size: float) -> None:
    """By PyTorch in float64. At 1e4 an exponential without the largest number taken off would be
    infinite."""
    scores = (torch.randn(3, 5, length) * size).requires_grad_()
    exact = scores.detach().double().requires_grad_()
    weights = torch.randn(scores.shape)
    ours, expected = softmax(scores), exact.softmax(dim=-1)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), scores)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), exact)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_fused_attention_is_the_explicit_one(
    shape: tuple[int, int, int, int], masked: bool, dtype: torch.dtype, bound: float
) -> None:
    """Values within the bound; gradients within the bound times the largest of them, for they are
    sums over queries."""
    inputs, mask = random_attention(shape, dtype)
    weights = torch.randn(shape, dtype=dtype)
    results, gradients = [], []
    for attention in (explicit_attention, fused_attention):
        leaves = [x.clone().requires_grad_() for x in inputs]
        result = attention(*leaves, keys_mask(mask) if masked else None)
        results.append(result.detach())
        gradients.append(torch.autograd.grad((result * weights).sum(), leaves))
    torch.testing.assert_close(*results, rtol=0, atol=bound)
    largest = max(gradient.abs().max().item() for gradient in gradients[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=bound * largest)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("attention", [explicit_attention, fused_attention])
def test_a_fully_masked_sentence_gives_zeros_and_no_nan(
    attention: Attention, dtype: torch.dtype
) -> None:
    """Forward and backward, and it changes nothing for its neighbour."""
    inputs, mask = random_attention((2, 2, 5, 4), dtype)
    mask[1] = False
    leaves = [x.requires_grad_() for x in inputs]
    result = attention(*leaves, keys_mask(mask))
    gradients = torch.autograd.grad(result.float().square().sum(), leaves)
    assert torch.equal(result[1], torch.zeros_like(result[1]))
    for gradient in gradients:
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
    alone = [x[:1].detach().clone().requires_grad_() for x in inputs]
    expected = attention(*alone, keys_mask(mask[:1]))
    bound = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(result[:1], expected, rtol=0, atol=bound)
    expected_gradients = torch.autograd.grad(expected.float().square().sum(), alone)
    for gradient, one in zip(gradients, expected_gradients, strict=True):
        assert gradient[:1].abs().max() > 0
        torch.testing.assert_close(gradient[:1], one, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
def test_masked_positions_have_exactly_no_probability(dtype: torch.dtype) -> None:
    (query, key, _), mask = random_attention((4, 2, 9, 8), dtype)
    probabilities = attention_probabilities(10 * query, key, keys_mask(mask))
    assert torch.all(probabilities.masked_select(~keys_mask(mask)) == 0)
    sums = probabilities.double().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("attention", [explicit_attention, fused_attention])
def test_a_masked_key_loses_however_well_it_would_score(
    attention: Attention, dtype: torch.dtype
) -> None:
    """The real keys score -20000 and the masked one +20000: a mask that adds -10000 would choose
    the masked one."""
    query = torch.full((1, 1, 1, 1), 100.0, dtype=dtype)
    key = torch.tensor([-200.0, -200.0, 200.0], dtype=dtype).view(1, 1, 3, 1)
    value = torch.tensor([1.0, 2.0, 1000.0], dtype=dtype).view(1, 1, 3, 1)
    mask = torch.tensor([[True, True, False]])
    assert attention(query, key, value, keys_mask(mask)).item() == 1.5


@pytest.mark.parametrize("attention", [explicit_attention, fused_attention])
def test_dropout_drops_probabilities_and_scales_the_rest(attention: Attention) -> None:
    """Over values of 1, a query's result is the mass that was kept, over 1 - p: its mean is 1, its
    variance known.

    With S equal scores the kept number is binomial(S, 1 - p), so the variance is p / (1 - p) / S.
    """
    queries, positions, p = 4096, 64, 0.25
    query, key, value = (
        torch.zeros(1, 1, queries, 4),
        torch.zeros(1, 1, positions, 4),
        torch.ones(1, 1, positions, 1),
    )
    kept = attention(query, key, value, dropout=p)
    assert kept.mean().item() == pytest.approx(1, abs=0.005)  # standard error 0.0011
    # standard error 2 %
    assert kept.var().item() == pytest.approx(p / (1 - p) / positions, rel=0.1)
    assert torch.equal(attention(query, key, value), torch.ones_like(kept))


def test_both_layouts_attend_alike() -> None:
    """Sentences of unsorted lengths, against one call of the loops a sentence."""
    inputs = [torch.randn(sum(LENGTHS), 2, 4, dtype=torch.float64) for _ in range(3)]  # (N, H, W)
    expected = torch.cat(
        [
            attention_by_loops(
                *(x.transpose(0, 1)[None] for x in parts), torch.ones(1, len(parts[0]))
            )[0].transpose(0, 1)
            for parts in zip(*(x.split(LENGTHS) for x in inputs), strict=True)
        ]
    )
    mask, (query, key, value) = pad(LENGTHS, *inputs)
    torch.testing.assert_close(Packed(LENGTHS).attend(*inputs), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        Padded(mask).attend(query, key, value)[mask], expected, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("lengths", [LENGTHS, sorted(LENGTHS), [5] * 4, [1, 2, 3, 30, 7]])
def test_packed_attention_with_dropout_is_the_same_function(lengths: list[int]) -> None:
    """At a chance of dropout so small that nothing is dropped: the values and the gradients of
    attention without."""
    results = []
    for dropout in (0.0, 1e-9):
        torch.manual_seed(0)
        inputs = [
            torch.randn(sum(lengths), 2, 4, dtype=torch.float64, requires_grad=True)
            for _ in range(3)
        ]
        context = Packed(lengths).attend(*inputs, dropout=dropout)
        context.backward(torch.arange(context.numel(), dtype=torch.float64).view_as(context).sin())
        results.append([context, *(x.grad for x in inputs)])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-13)


def pad(lengths: list[int], *packed: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The mask (B, S), and each (N, ...) as (B, S, ...) with 1000 in the padding, which nothing may
    depend on."""
    padded = [
        torch.nn.utils.rnn.pad_sequence(
            list(x.split(lengths)), batch_first=True, padding_value=1000
        )
        for x in packed
    ]
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None], padded


@pytest.mark.parametrize("pooling", POOLINGS)
def test_both_layouts_pool_alike(pooling: str) -> None:
    """Against numpy on each sentence alone; gradients against each other."""
    x = torch.randn(sum(LENGTHS), 5, requires_grad=True)
    by_numpy = {"mean": lambda s: s.mean(0), "max": lambda s: s.max(0), "cls": lambda s: s[0]}[
        pooling
    ]
    expected = torch.from_numpy(np.stack([by_numpy(s.detach().numpy()) for s in x.split(LENGTHS)]))
    mask, (padded,) = pad(LENGTHS, x)
    gradients = []
    for result in (pool(x, Packed(LENGTHS), pooling), pool(padded, Padded(mask), pooling)):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
        gradients += torch.autograd.grad(result.square().sum(), x)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_sentence_without_real_tokens_pools_to_zeros(pooling: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, dtype=dtype, requires_grad=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    vectors = pool(x, Padded(mask), pooling)
    (gradient,) = torch.autograd.grad(vectors.float().sum(), x)
    assert torch.equal(vectors[1], torch.zeros(4, dtype=dtype))
    assert torch.all(vectors[0] != 0)
    assert torch.equal(gradient[1], torch.zeros(3, 4, dtype=dtype))
    assert gradient[0].isfinite().all()


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32]
)
def test_any_dtype_and_any_number_but_zero_marks_a_real_token(dtype: torch.dtype) -> None:
    mask = Padded(torch.tensor([[0, 1, 1], [2, 0, 1]]).to(dtype)).mask
    assert mask.tolist() == [[False, True, True], [True, False, True]]


def test_positions_start_again_with_every_sentence() -> None:
    assert Packed([2, 2, 1, 3, 2]).positions.tolist() == [0, 1, 0, 1, 0, 0, 1, 2, 0, 1]
    assert Padded(torch.tensor([[0, 0, 1], [1, 0, 0]])).positions.tolist() == [0, 1, 2]


@pytest.mark.parametrize("lengths", [[], [0], [3, 0, 2], [-1]])
def test_packed_refuses_a_sentence_without_tokens(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Packed(lengths)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3)])
def test_padded_refuses_a_mask_that_is_no_table(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, S\)"):
        Padded(torch.ones(shape))


def test_an_unknown_pooling_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'median' is not one of mean, cls, max"):
        pool(torch.ones(1, 2, 3), Padded(torch.ones(1, 2)), "median")
