"""Attention and pooling in each layout, against loops in plain numpy and against each other.

Evidence: the formula of Vaswani et al. 2017 written as loops over sentences, heads and positions,
in float64.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minibert.fast.attention import SimilarLengths
from minibert.fast.attention import attention as fast_attention
from minibert.heads import POOLINGS, pool
from minibert.layout import Layout, Packed, Padded
from minibert.model import attention

Function = Callable[..., Tensor]
both_attentions = pytest.mark.parametrize(
    "attention", [attention, fast_attention], ids=["plain", "fast"]
)
HALF = [torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1, 1), (3, 2, 5, 4), (2, 3, 70, 8)]  # (G, H, L, W)
LENGTHS = [3, 1, 7, 7, 2, 7, 7]


def attention_by_loops(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """In float64, one query at a time, over the keys that it may see and no others."""
    result = np.zeros(value.shape)
    q, k, v = (x.double().numpy() for x in (query, key, value))
    for b, h, i in np.ndindex(*query.shape[:3]):
        seen = np.arange(query.size(2)) if mask is None else np.flatnonzero(mask[b].numpy())
        if len(seen):
            scores = k[b, h, seen] @ q[b, h, i] / np.sqrt(query.shape[-1])
            if bias is not None:
                scores = scores + bias[b, h, i].double().numpy()[seen]
            weights = np.exp(scores - scores.max())
            result[b, h, i] = weights @ v[b, h, seen] / weights.sum()
    return torch.from_numpy(result)


def random_attention(
    shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Tensor]:
    """Query, key and value (G, H, L, W), and a mask (G, L) with holes. The first token of a
    sentence is never masked."""
    mask = torch.rand(shape[0], shape[2]) < 0.6
    mask[:, 0] = True
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(3)], mask


@both_attentions
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_the_papers_formula(
    attention: Function, shape: tuple[int, int, int, int], masked: bool, biased: bool
) -> None:
    inputs, mask = random_attention(shape, torch.float64)
    bias = torch.randn(*shape[:3], shape[2], dtype=torch.float64)
    options = {"mask": mask if masked else None, "bias": bias if biased else None}
    found, expected = attention(*inputs, **options), attention_by_loops(*inputs, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@both_attentions
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_fully_masked_sentence_gives_zeros_and_no_nan(
    attention: Function, dtype: torch.dtype
) -> None:
    """Forward and backward, and it changes nothing for its neighbour."""
    inputs, mask = random_attention((2, 2, 5, 4), dtype)
    mask[1] = False
    leaves = [x.requires_grad_() for x in inputs]
    result = attention(*leaves, mask)
    gradients = torch.autograd.grad(result.float().square().sum(), leaves)
    assert torch.equal(result[1], torch.zeros_like(result[1]))
    for gradient in gradients:
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
    alone = [x[:1].detach().clone().requires_grad_() for x in inputs]
    expected = attention(*alone, mask[:1])
    bound = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(result[:1], expected, rtol=0, atol=bound)
    expected_gradients = torch.autograd.grad(expected.float().square().sum(), alone)
    for gradient, one in zip(gradients, expected_gradients, strict=True):
        assert gradient[:1].abs().max() > 0
        torch.testing.assert_close(gradient[:1], one, rtol=0, atol=bound)


@both_attentions
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
def test_a_masked_key_has_exactly_no_probability(attention: Function, dtype: torch.dtype) -> None:
    """The attention to one-hot values is the probabilities themselves."""
    (query, key, _), mask = random_attention((4, 2, 9, 8), dtype)
    one_hot = torch.eye(9, dtype=dtype).expand(4, 2, 9, 9)
    probabilities = attention(10 * query, key, one_hot, mask)
    assert torch.all(probabilities.masked_select(~mask[:, None, None, :]) == 0)
    sums = probabilities.double().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=4 * torch.finfo(dtype).eps)


@both_attentions
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_masked_key_loses_however_well_it_would_score(
    attention: Function, dtype: torch.dtype
) -> None:
    """The real keys score -20000 and the masked one +20000: a mask that adds -10000 would choose
    the masked one."""
    query = torch.full((1, 1, 1, 1), 100.0, dtype=dtype)
    key = torch.tensor([-200.0, -200.0, 200.0], dtype=dtype).view(1, 1, 3, 1)
    value = torch.tensor([1.0, 2.0, 1000.0], dtype=dtype).view(1, 1, 3, 1)
    mask = torch.tensor([[True, True, False]])
    assert attention(query, key, value, mask).item() == 1.5


@both_attentions
def test_dropout_drops_probabilities_and_scales_the_rest(attention: Function) -> None:
    """Over values of 1, a query's result is the mass that was kept, over 1 - p: its mean is 1, its
    variance known.

    With L equal scores the kept number is binomial(L, 1 - p), so the variance is p / (1 - p) / L.
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


def pad(lengths: list[int], *packed: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The mask (B, S), and each (N, ...) as (B, S, ...) with 1000 in the padding, which nothing may
    depend on."""
    padded = [
        pad_sequence(list(x.split(lengths)), batch_first=True, padding_value=1000) for x in packed
    ]
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None], padded


@both_attentions
def test_every_layout_attends_alike(attention: Function) -> None:
    """Sentences of unsorted lengths, against the loops on one sentence at a time."""
    inputs = [torch.randn(sum(LENGTHS), 2, 4, dtype=torch.float64) for _ in range(3)]  # (N, H, W)
    alone = zip(*(x.transpose(0, 1).split(LENGTHS, 1) for x in inputs), strict=True)
    expected = torch.cat(
        [attention_by_loops(*(x[None] for x in one))[0].transpose(0, 1) for one in alone]
    )

    def attend(layout: Layout, *tensors: Tensor) -> Tensor:
        groups = [
            attention(*(x.transpose(1, 2) for x in group), mask).transpose(1, 2)
            for group, mask in layout.groups(*tensors)
        ]
        return layout.join(groups)

    mask, padded = pad(LENGTHS, *inputs)
    found = [
        attend(Packed(LENGTHS), *inputs),
        attend(SimilarLengths(LENGTHS), *inputs),
        attend(Padded(mask), *padded)[mask],
    ]
    for one in found:
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("lengths", [LENGTHS, sorted(LENGTHS), [5] * 4, [1, 2, 3, 30, 7], [1]])
@pytest.mark.parametrize("kind", [Packed, SimilarLengths])
def test_groups_hold_every_sentence_in_order_and_join_undoes_them(
    kind: type[Packed], lengths: list[int]
) -> None:
    layout, x = kind(lengths), torch.randn(sum(lengths), 3)
    groups = [(group, mask) for (group,), mask in layout.groups(x)]
    assert torch.equal(layout.join([group for group, _ in groups]), x)
    found: list[Tensor] = []
    for group, mask in groups:
        masks = torch.ones(group.shape[:2], dtype=torch.bool) if mask is None else mask
        found += [row[real] for row, real in zip(group, masks, strict=True)]
    assert len(found) == len(lengths)
    for one, expected in zip(found, x.split(lengths), strict=True):
        assert torch.equal(one, expected)


def test_neighbours_of_equal_length_share_a_group_and_nothing_is_padded() -> None:
    x = torch.randn(sum(LENGTHS), 2)
    shapes = [(tuple(group.shape), mask) for (group,), mask in Packed(LENGTHS).groups(x)]
    assert shapes == [((c, n, 2), None) for c, n in ((1, 3), (1, 1), (2, 7), (1, 2), (2, 7))]


@pytest.mark.parametrize("kind", [Packed, SimilarLengths, Padded])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_layout_pools_alike(pooling: str, kind: type[Layout]) -> None:
    """Against numpy on each sentence alone, and the gradient against that of each one alone."""
    x = torch.randn(sum(LENGTHS), 5, requires_grad=True)
    in_numpy = {
        "mean": lambda s: s.mean(0),
        "max": lambda s: s.max(0),
        "cls": lambda s: s[0],
        "mean_sqrt_len_tokens": lambda s: s.sum(0) / np.sqrt(np.float32(len(s))),
        "weightedmean": lambda s: np.average(s, 0, np.arange(len(s)) + 1).astype(np.float32),
        "lasttoken": lambda s: s[-1],
    }
    sentences = [s.detach().numpy() for s in x.split(LENGTHS)]
    expected = torch.from_numpy(np.stack([in_numpy[pooling](s) for s in sentences]))
    mask, (padded,) = pad(LENGTHS, x)
    if kind is Padded:
        result = pool(padded, Padded(mask), pooling)
    else:
        result = pool(x, kind(LENGTHS), pooling)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    functions = {
        "mean": lambda s: s.mean(0),
        "max": lambda s: s.amax(0),
        "cls": lambda s: s[0],
        "mean_sqrt_len_tokens": lambda s: s.sum(0) / len(s) ** 0.5,
        "weightedmean": lambda s: (
            sum(i * row for i, row in enumerate(s, 1)) / sum(range(len(s) + 1))
        ),
        "lasttoken": lambda s: s[-1],
    }
    alone = torch.stack([functions[pooling](s) for s in x.split(LENGTHS)])
    (wanted,) = torch.autograd.grad(alone.square().sum(), x)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [Packed, Padded])
def test_several_poolings_are_put_one_after_the_other(kind: type[Layout]) -> None:
    x = torch.randn(sum(LENGTHS), 5)
    mask, (padded,) = pad(LENGTHS, x)
    tokens, layout = (padded, Padded(mask)) if kind is Padded else (x, Packed(LENGTHS))
    parts = [pool(tokens, layout, pooling) for pooling in ("lasttoken", "mean", "cls")]
    assert torch.equal(pool(tokens, layout, "lasttoken+mean+cls"), torch.cat(parts, 1))
    with pytest.raises(ValueError, match="'' is not one of"):
        pool(tokens, layout, "mean+")


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("pooling", ["mean", "max", "mean_sqrt_len_tokens", "weightedmean"])
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
    with pytest.raises(ValueError, match="'median' is not one of cls, max, mean, "):
        pool(torch.ones(1, 2, 3), Padded(torch.ones(1, 2)), "median")
