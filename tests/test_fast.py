"""Fast modules compute what the plain ones do: values and gradients, for every type of layer, every
layout and dtype.

Evidence: the plain modules of model.py, which tests/test_layout.py holds against loops and
tests/parity against transformers; PyTorch's own functions; and, for random numbers, statistics.
"""

import copy
import os
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.rnn import pad_sequence

from minibert import Bert, BertConfig, Packed, Padded
from minibert.fast import arrange, change_classes, inference_copy, slow_down, speed_up, twin
from minibert.fast.arranged import (
    BLOCK,
    ArrangedAttention,
    ArrangedFeedForward,
    ArrangedLinear,
    has_arranged_products,
)
from minibert.fast.attention import (
    VECTOR,
    FastAttention,
    GroupedAttention,
    SimilarLengths,
    rounded_up,
)
from minibert.fast.attention import attention as fast_attention
from minibert.fast.dropout import FastDropout, dropout
from minibert.fast.linear import FEW, FastLinear, convolution
from minibert.layout import Layout
from minibert.model import Attention, FeedForward, Layer, attention
from minibert.precision import computes_bfloat16
from tools.parity import shake

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=100,
)
# Absolute. Values reach 4, where a step is 2.4e-7 in float32.
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-13}
# Sentences of one token, short ones, and ones that are too long for the formula to be fastest.
LENGTHS = st.lists(
    st.one_of(st.just(1), st.integers(2, 20), st.integers(60, 100)), min_size=1, max_size=8
)
LAYOUTS = st.sampled_from([Packed, SimilarLengths, Padded])
DTYPES = st.sampled_from([torch.float32, torch.float64])

needs_arranged_products = pytest.mark.skipif(
    not has_arranged_products(), reason="PyTorch has no products with arranged weights here"
)
needs_bfloat16 = pytest.mark.skipif(
    not computes_bfloat16(), reason="PyTorch computes no bfloat16 here"
)


def fast(module: nn.Module) -> Any:
    """A copy with all classes for training, those too that `speed_up` leaves out on this
    processor."""
    copied = copy.deepcopy(module)
    change_classes(
        copied, {Attention: GroupedAttention, nn.Dropout: FastDropout, nn.Linear: FastLinear}
    )
    return copied


@cache
def pair(kind: type[nn.Module], dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """A module and its fast copy, in training mode, with a chance of dropout of 0.1.

    Its weights spread by BERT's own 0.02 in float32, and by 0.2 in float64, as in test_model.py.
    """
    torch.manual_seed(0)
    std = 0.02 if dtype == torch.float32 else 0.2
    plain = shake(kind(CONFIG), std).to(dtype).train()  # type: ignore[call-arg]
    return plain, fast(plain)


def arranged(layout: type[Layout], lengths: list[int], x: Tensor) -> tuple[Layout, Tensor, Tensor]:
    """Packed tokens (N, ...) as a layout wants them, the layout, and which of them are real."""
    if layout is not Padded:
        return layout(lengths), x, torch.ones(len(x), dtype=torch.bool)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Padded(mask), pad_sequence(list(x.split(lengths)), batch_first=True), mask


def results(module: nn.Module, layout: type[Layout], lengths: list[int]) -> list[Tensor]:
    """The output at real tokens; then the gradients of the parameters, and of the input if it is a
    float."""
    torch.manual_seed(1)
    tokens, parameters = sum(lengths), dict(module.named_parameters())
    if isinstance(module, Bert):
        where, x, real = arranged(layout, lengths, torch.randint(CONFIG.vocab_size, (tokens,)))
        output = module(x, layout=where)
        inputs = [p for name, p in parameters.items() if not name.startswith("pooler.")]
    else:
        dtype = next(iter(parameters.values())).dtype
        given = torch.randn(tokens, CONFIG.hidden_size, dtype=dtype, requires_grad=True)
        where, x, real = arranged(layout, lengths, given)
        output = module(x) if isinstance(module, FeedForward) else module(x, where)
        inputs = [given, *parameters.values()]
    weights = torch.randn(tokens, CONFIG.hidden_size, dtype=output.dtype)
    return [output[real].detach(), *torch.autograd.grad((output[real] * weights).sum(), inputs)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """Values within the bound of their dtype; gradients within it times the largest gradient."""
    bound = BOUNDS[expected[0].dtype]
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=bound)
    largest = max((gradient.abs().max().item() for gradient in expected[1:]), default=0)
    torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=bound * largest)


def steady(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
    """In the place of dropout: a function of x and p that is no more random, and 0 where x is."""
    return x * (1 + p * x.sin()) if training else x


KINDS = pytest.mark.parametrize("kind", [Attention, FeedForward, Layer, Bert])


@KINDS
@given(lengths=LENGTHS, layout=LAYOUTS, dtype=DTYPES)
def test_fast_is_plain_in_evaluation(
    kind: type[nn.Module], lengths: list[int], layout: type[Layout], dtype: torch.dtype
) -> None:
    plain, quick = (module.eval() for module in pair(kind, dtype))
    assert_same(results(quick, layout, lengths), results(plain, layout, lengths))


@KINDS
@given(lengths=LENGTHS, layout=LAYOUTS, dtype=DTYPES)
def test_fast_is_plain_in_training_and_drops_in_the_same_places(
    kind: type[nn.Module], lengths: list[int], layout: type[Layout], dtype: torch.dtype
) -> None:
    """Both have the same function in the place of dropout. A dropout that stands elsewhere, or with
    another chance, would show."""
    plain, quick = (module.train() for module in pair(kind, dtype))
    with (
        patch("torch.nn.functional.dropout", steady),
        patch("minibert.fast.dropout.dropout", steady),
        patch("minibert.fast.attention.fast_dropout", steady),
    ):
        assert_same(results(quick, layout, lengths), results(plain, layout, lengths))


@KINDS
@given(lengths=LENGTHS, layout=LAYOUTS, dtype=DTYPES)
def test_fast_is_plain_in_training_without_dropout(
    kind: type[nn.Module], lengths: list[int], layout: type[Layout], dtype: torch.dtype
) -> None:
    plain, quick = (copy.deepcopy(module).train() for module in pair(kind, dtype))
    for module in (*plain.modules(), *quick.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert_same(results(quick, layout, lengths), results(plain, layout, lengths))


@given(lengths=LENGTHS, layout=st.sampled_from([Packed, Padded]), dtype=DTYPES)
@torch.inference_mode()
def test_an_inference_copy_is_plain(
    lengths: list[int], layout: type[Layout], dtype: torch.dtype
) -> None:
    plain = pair(Bert, dtype)[0].eval()
    where, ids, real = arranged(layout, lengths, torch.randint(50, (sum(lengths),)))
    found, expected = (model(ids, layout=where)[real] for model in (inference_copy(plain), plain))
    assert_same([found], [expected])


@pytest.mark.skipif(
    "ATEN_CPU_CAPABILITY" in os.environ,
    reason="PyTorch's bfloat16 attention asks the processor, whatever ATEN_CPU_CAPABILITY says",
)
@pytest.mark.parametrize("layout", [Packed, SimilarLengths, Padded])
@pytest.mark.parametrize("variant", [fast, inference_copy])
@torch.inference_mode()
def test_in_bfloat16_fast_is_as_near_to_the_truth_as_plain(
    layout: type[Layout], variant: Callable[[Bert], Bert]
) -> None:
    """The truth is the same weights in float64. Both round to 8 bits, in another order."""
    plain = shake(Bert(CONFIG), 0.1).bfloat16().eval()
    exact = copy.deepcopy(plain).double()
    lengths = [5, 9, 9, 70, 1, 1, 30, 90]
    where, ids, real = arranged(layout, lengths, torch.randint(50, (sum(lengths),)))
    truth = exact(ids, layout=where)[real]
    errors = [
        (model(ids, layout=where)[real].double() - truth).norm().item()
        for model in (variant(plain), plain)
    ]
    assert 0 < errors[0] <= 1.1 * errors[1]


# Attention


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("bias", [None, "(G, H, L, L)", "(H, L, L)", "(1, H, L, L)", "(L)"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 7, 15, 16, 17, 64, 65, 100])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_fast_attention_is_the_formula_with_and_without_a_bias(
    dropout: float, length: int, masked: bool, bias: str | None, dtype: torch.dtype
) -> None:
    """Values within the bound; gradients, the bias's too, within it times the largest. Short and
    long sentences take other ways, and so do masked ones and those with dropout, in whose place is
    a function that is not random."""
    sizes = {"G": 2, "H": 3, "L": length, "1": 1}
    inputs = [torch.randn(2, 3, length, 8, dtype=dtype) for _ in range(3)]
    if bias is not None:
        inputs.append(torch.randn([sizes[s] for s in bias.strip("()").split(", ")], dtype=dtype))
    mask = torch.rand(2, length) < 0.6
    mask[0, 0], mask[1] = True, length == 7  # of 7, the second sentence is whole; else all masked
    weights = torch.randn(2, 3, length, 8, dtype=dtype)
    found = []
    for function in (fast_attention, attention):
        query, key, value, *more = leaves = [x.clone().requires_grad_() for x in inputs]
        with (
            patch("torch.nn.functional.dropout", steady),
            patch("minibert.fast.attention.fast_dropout", steady),
        ):
            given = *(more or [None]), dropout
            result = function(query, key, value, mask if masked else None, *given)
        found.append([result.detach(), *torch.autograd.grad((result * weights).sum(), leaves)])
    assert_same(*found)


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_large_scores_do_not_overflow(length: int, size: float) -> None:
    """Against PyTorch in float64. An exponential of 1e4 would be infinite."""
    query = (torch.randn(3, 5, length, length) * size).requires_grad_()
    eye = torch.eye(length).expand(3, 5, length, length)
    weights = torch.randn(query.shape)
    found = fast_attention(query * length**0.5, eye, eye)  # the probabilities of the scores
    exact = query.detach().double().requires_grad_()
    expected = exact.softmax(dim=-1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad((found * weights).sum(), query)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), exact)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("special", ["frozen", "hook", "backward hook", "pruned", "none"])
def test_query_key_and_value_from_one_product_are_those_of_three(special: str) -> None:
    """Values and gradients, also where a layer is frozen. One with a hook, or whose weight is
    computed in each call, is called as a module."""
    plain = shake(Attention(CONFIG), 0.2).double().eval()
    calls: list[nn.Module] = []
    if special == "frozen":
        plain.key.requires_grad_(False)
    quick = fast(plain)
    for module in (plain, quick):
        if special == "pruned":
            prune.l1_unstructured(module.key, "weight", 0.5)
        elif special == "hook":
            module.key.register_forward_hook(lambda layer, *_: calls.append(layer))
        elif special == "backward hook":
            module.key.register_full_backward_hook(lambda layer, *_: calls.append(layer))
    x, above = torch.randn(30, 24).double(), torch.randn(30, 24).double()
    products, found = [], []
    for module in (plain, quick):
        given = x.clone().requires_grad_()
        learning = [given, *(p for p in module.parameters() if p.requires_grad)]
        with patch.object(F, "linear", wraps=F.linear) as multiplied:
            result = module(given, Packed([9, 9, 12]))
        products.append(multiplied.call_count)
        found.append([result.detach(), *torch.autograd.grad(result, learning, above)])
    assert_same(found[1], found[0])
    assert products == [4, 2 if special in ("frozen", "none") else 4]
    assert calls == ([plain.key, quick.key] if "hook" in special else [])


class WithDistance(Attention):
    """Attention with a bias for each head and distance of two tokens, as in T5."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.distance = nn.Parameter(torch.randn(config.num_attention_heads, 199))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        positions = torch.arange(query.size(1))
        bias = self.distance[:, positions - positions[:, None] + 99]
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return self.attention(query, key, value, mask, bias).transpose(1, 2)


class FastWithDistance(WithDistance, GroupedAttention):
    """The same with the fast functions."""


@given(lengths=LENGTHS, layout=LAYOUTS, dtype=DTYPES)
def test_a_bias_that_is_written_once_acts_in_every_layout_and_in_fast_attention(
    lengths: list[int], layout: type[Layout], dtype: torch.dtype
) -> None:
    plain = pair(WithDistance, dtype)[0].eval()
    quick = copy.deepcopy(plain)
    change_classes(quick, {WithDistance: FastWithDistance, nn.Linear: FastLinear})
    expected = results(plain, Packed, lengths)
    assert_same(results(plain, layout, lengths), expected)
    assert_same(results(quick, layout, lengths), expected)
    without = copy.deepcopy(plain)
    without.get_parameter("distance").data.zero_()
    if max(lengths) > 1:
        difference = (results(without, layout, lengths)[0] - expected[0]).abs().max()
        assert difference > 100 * BOUNDS[dtype]


def test_a_model_with_an_attention_of_its_own_is_encoded_with_it() -> None:
    """speed_up and inference_copy leave a class alone that they do not know."""
    bert = Bert(CONFIG, pooler=False).eval()
    for layer in bert.layers:
        layer.attention = shake(WithDistance(CONFIG), 0.2)  # type: ignore[union-attr]
    ids, layout = torch.randint(50, (30,)), Packed([9, 9, 12])
    sped_up = copy.deepcopy(bert)
    speed_up(sped_up)
    with torch.inference_mode():
        expected = bert(ids, layout=layout)
        for model in (sped_up, inference_copy(bert)):
            torch.testing.assert_close(model(ids, layout=layout), expected, rtol=0, atol=1e-6)


# Linear layers

# MiniLM's, a small model's, and the least
SIZES = pytest.mark.parametrize(
    ("inputs", "outputs"), [(384, 384), (384, 1536), (1536, 384), (24, 72), (1, 1)]
)


def operands(
    tokens: tuple[int, ...], inputs: int, outputs: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((*tokens, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def linear(
    kind: type[nn.Linear], weight: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32
) -> nn.Linear:
    layer = nn.Linear(weight.size(1), weight.size(0), dtype=weight.dtype)
    layer.weight.data, layer.bias.data = weight.detach(), bias.detach()
    change_classes(layer, {nn.Linear: kind})
    if isinstance(layer, ArrangedLinear):
        layer.arrange(dtype)
    return layer


FAST_LINEAR = pytest.mark.parametrize(
    "kind", [FastLinear, pytest.param(ArrangedLinear, marks=needs_arranged_products)]
)


@pytest.mark.parametrize("tokens", [(FEW,), (3, 61), (1,), (1000,), (2, 3, 40)])
@SIZES
def test_a_convolution_is_the_same_function_with_the_same_gradients(
    tokens: tuple[int, ...], inputs: int, outputs: int
) -> None:
    """In float64, where no rounding hides a difference."""
    given = operands(tokens, inputs, outputs, torch.float64)
    ours, theirs = convolution(*given), F.linear(*given)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    above = torch.randn_like(theirs)
    gradients = (torch.autograd.grad(result, given, above) for result in (ours, theirs))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tokens", [1, 30, 500])
@FAST_LINEAR
@SIZES
@torch.inference_mode()
def test_float32_errors_are_within_those_of_adding_one_by_one(
    kind: type[nn.Linear], inputs: int, outputs: int, tokens: int
) -> None:
    """A sum of n products errs by at most n u sum|x w| (Higham 2002, section 3.1). Numbers of fewer
    bits would exceed that."""
    x, weight, bias = operands((tokens,), inputs, outputs)
    exact = F.linear(x.double(), weight.double(), bias.double())
    sums = F.linear(x.abs().double(), weight.abs().double(), bias.abs().double())
    errors = (linear(kind, weight, bias)(x) - exact).abs()
    assert (errors <= (inputs + 1) * 2**-24 * sums).all()


@SIZES
@torch.inference_mode()
def test_a_tokens_bits_do_not_depend_on_its_batch_in_a_convolution(
    inputs: int, outputs: int
) -> None:
    """From FEW tokens on. The frozen-prefix cache relies on it."""
    x, weight, bias = operands((2000,), inputs, outputs)
    layer = linear(FastLinear, weight, bias)
    whole = layer(x)
    for start, count in ((0, FEW), (7, FEW + 1), (100, 333), (300, 1024), (0, 1999)):
        assert torch.equal(layer(x[start : start + count]), whole[start : start + count])


@needs_arranged_products
@SIZES
@torch.inference_mode()
def test_a_tokens_bits_do_not_depend_on_its_batch_in_an_arranged_product(
    inputs: int, outputs: int
) -> None:
    """With two tokens or more, and every text has two. That its vector is the same alone and among
    others rests on this. (oneDNN has another kernel for one token of more than 1,024 numbers.)"""
    x, weight, bias = operands((1030,), inputs, outputs)
    layer = linear(ArrangedLinear, weight, bias)
    whole = layer(x)
    for start, count in ((7, 2), (0, 5), (11, 16), (50, 63), (1, 64), (9, 300), (0, 1024)):
        assert torch.equal(layer(x[start : start + count]), whole[start : start + count])


@needs_arranged_products
@pytest.mark.parametrize("tokens", [1, 2, 15, 300])
@torch.inference_mode()
def test_what_is_joined_has_the_bits_of_what_is_apart(tokens: int) -> None:
    """Query, key and value from one product, and GELU within its product, in float32."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, num_hidden_layers=1, max_position_embeddings=100)
    apart = shake(Bert(config, pooler=False), 0.02).eval()
    together, x = twin(apart), torch.randn(tokens, config.hidden_size)
    change_classes(together, {Attention: FastAttention})
    change_classes(apart, {Attention: FastAttention, nn.Linear: ArrangedLinear})
    arrange(together, torch.float32)
    for part in apart.modules():
        if isinstance(part, ArrangedLinear):
            part.arrange(torch.float32)
    (one,), (other,) = together.layers, apart.layers
    assert isinstance(one.attention, ArrangedAttention)
    assert isinstance(one.feed_forward, ArrangedFeedForward)
    assert all(map(torch.equal, one.attention.project(x), other.attention.project(x)))
    assert torch.equal(one.feed_forward(x), other.feed_forward(x))


@needs_bfloat16
@pytest.mark.parametrize("tokens", [(1,), (3, 50), (BLOCK,), (1000,)])
@SIZES
@torch.inference_mode()
def test_a_bfloat16_product_rounds_what_is_multiplied_and_what_comes_out(
    inputs: int, outputs: int, tokens: tuple[int, ...]
) -> None:
    """The same product of rounded numbers in float64 is off by a rounding of the result, and by
    the float32 sums within. Sums of bfloat16 numbers would be off by more."""
    x, weight, bias = operands(tokens, inputs, outputs)
    found = linear(ArrangedLinear, weight, bias, torch.bfloat16)(x)
    x, weight, bias = (given.bfloat16().double() for given in (x, weight, bias))
    exact = F.linear(x, weight, bias)
    sums = F.linear(x.abs(), weight.abs(), bias.abs())
    assert found.dtype == torch.float32
    assert ((found - exact).abs() <= 2**-8 * exact.abs() + (inputs + 1) * 2**-23 * sums).all()


@needs_bfloat16
@SIZES
@torch.inference_mode()
def test_a_tokens_bits_do_not_depend_on_its_batch_in_a_bfloat16_product(
    inputs: int, outputs: int
) -> None:
    """Nor on where it stands in its block."""
    x, weight, bias = operands((1030,), inputs, outputs)
    layer = linear(ArrangedLinear, weight, bias, torch.bfloat16)
    whole = layer(x)
    for start, count in ((7, 1), (7, 2), (11, 16), (1, 64), (9, 300), (0, 1024), (3, BLOCK)):
        assert torch.equal(layer(x[start : start + count]), whole[start : start + count])


@pytest.mark.parametrize("tokens", [(0,), (1,), (3, 5), (FEW,), (1000,)])
@FAST_LINEAR
@SIZES
@torch.inference_mode()
def test_a_part_of_a_larger_tensor_is_multiplied_too(
    kind: type[nn.Linear], inputs: int, outputs: int, tokens: tuple[int, ...]
) -> None:
    """Its numbers do not stand side by side in memory. The weights are nn.Linear's own, so that
    sums are about 1."""
    plain = nn.Linear(inputs, outputs)
    x = torch.randn(*tokens, 2 * inputs)[..., ::2]
    found, expected = linear(kind, plain.weight, plain.bias)(x), plain(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_pytorchs_own_products(dtype: torch.dtype) -> None:
    x, weight, bias = operands((200,), 24, 72, dtype)
    assert torch.equal(linear(FastLinear, weight, bias)(x), F.linear(x, weight, bias))


def test_under_autocast_products_are_pytorchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibert.fast.linear.convolution", None)
    x, weight, bias = operands((200,), 24, 72)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = linear(FastLinear, weight, bias)(x), F.linear(x, weight, bias)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_groups_are_padded_to_few_lengths() -> None:
    """All lengths up to BERT's 512 have 16 between them."""
    for length in range(1, 513):
        padded = rounded_up(length)
        assert padded % VECTOR == 0
        assert length <= padded < max(1.25 * length, length + VECTOR)
    assert len(set(map(rounded_up, range(1, 513)))) == 16


# Dropout


@pytest.mark.parametrize("shape", [(1_000_001,), (1000, 333, 3)])  # the former no multiple of four
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_drops_at_the_rate_asked_for_and_scales_the_rest(
    shape: tuple[int, ...], probability: float
) -> None:
    """Four elements share a draw: each of the four is dropped as often as the others, and no two
    neighbours together more often than by chance."""
    result = dropout(torch.ones(shape), probability).flatten()
    kept = result != 0
    torch.testing.assert_close(
        result[kept], torch.full_like(result[kept], 1 / (1 - probability)), rtol=2e-4, atol=0
    )
    keep, count = 1 - probability, kept.numel() // 4
    for place in range(4):
        share = kept[place::4].double().mean().item()
        assert share == pytest.approx(keep, abs=5 * (keep * probability / count) ** 0.5 + 2**-16)
    for distance in (1, 2, 3, 4):
        both = (kept[distance:] & kept[:-distance]).double().mean().item()
        assert both == pytest.approx(
            keep**2, abs=5 * (keep**2 * (1 - keep**2) / kept.numel()) ** 0.5 * 2 + 2**-15
        )


def test_the_gradient_of_dropout_is_that_of_what_was_kept() -> None:
    x = torch.rand(64, 33, requires_grad=True)
    result = dropout(x + 1, 0.3)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(gradient != 0, result != 0)
    torch.testing.assert_close(gradient * (x + 1), result)


def test_dropout_follows_the_seed_and_is_off_in_eval_mode_and_at_zero() -> None:
    module, x = FastDropout(0.5), torch.rand(100)
    torch.manual_seed(7)
    first, second = module(x), module(x)
    torch.manual_seed(7)
    assert torch.equal(module(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(dropout(x, 0.0), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropout_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert dropout(torch.ones(10, dtype=dtype), 0.5).dtype == dtype


@pytest.mark.parametrize("module", [nn.Dropout, FastDropout])
def test_a_chance_of_one_drops_everything_and_one_near_it_almost(module: type[nn.Dropout]) -> None:
    """As nn.Dropout: zeros, and a gradient of zeros."""
    x = torch.ones(2**20, requires_grad=True)
    result = module(1.0)(x)
    assert not result.any()
    assert not torch.autograd.grad(result.sum(), x)[0].any()
    for probability in (1 - 2**-10, 1 - 2**-17):  # 1,024 and 8 elements are kept on average
        result = module(probability)(x)
        kept, expected = int(result.count_nonzero()), 2**20 * (1 - probability)
        assert abs(kept - expected) <= 5 * expected**0.5
        assert result.max().item() == pytest.approx(1 / (1 - probability))
    assert not module(1 - 2**-40)(x).any()


# Changing the classes


def classes(module: nn.Module) -> set[str]:
    return {type(part).__name__ for part in module.modules()}


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("AVX512", "FastLinear"), ("AVX2", "Linear"), ("DEFAULT", "Linear")],
)
def test_speed_up_changes_classes_and_slow_down_changes_them_back(
    monkeypatch: pytest.MonkeyPatch, capability: str, expected: str
) -> None:
    """Parameters, their names, hooks and modes stay, and the repr says what the module is."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    bert = Bert(CONFIG).train()
    bert.layers[1].eval()
    hooks: list[nn.Module] = []
    bert.layers[0].register_forward_hook(lambda module, *_: hooks.append(module))
    before, parameters, plain = repr(bert), dict(bert.named_parameters()), classes(bert)
    modes = [part.training for part in bert.modules()]
    speed_up(bert)
    assert classes(bert) >= {"GroupedAttention", "FastDropout", expected}
    assert not classes(bert) & {"Attention", "Dropout"}
    for name in ("GroupedAttention(", "FastDropout(p=0.1", f" {expected}(in_features=24"):
        assert name in repr(bert)
    for _ in range(2):
        after = dict(bert.named_parameters())
        assert list(after) == list(parameters)
        assert all(after[name] is parameter for name, parameter in parameters.items())
        assert [part.training for part in bert.modules()] == modes
        bert(torch.ones(1, 5, dtype=torch.int64))
        slow_down(bert)
    assert hooks == [bert.layers[0]] * 2
    assert classes(bert) == plain
    assert repr(bert) == before


def test_an_inference_copy_says_so_and_leaves_the_model_alone() -> None:
    bert = Bert(CONFIG).eval()
    before, parameters = repr(bert), dict(bert.named_parameters())
    copied = inference_copy(bert)
    assert repr(bert) == before
    for name in ("ArrangedLinear(", "ArrangedAttention(", "ArrangedFeedForward("):
        assert (name in repr(copied)) is has_arranged_products()
    assert ("FastAttention(" in repr(copied)) is not has_arranged_products()
    assert isinstance(copied.layers[0].attention, FastAttention)
    after = dict(copied.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[name] is parameter for name, parameter in parameters.items())
