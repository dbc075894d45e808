"""The fast linear layer: the same function, with the same gradients and parameters, as PyTorch's
own."""

import copy
from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from minibert.linear import ENOUGH, FastLinear, convolution, speed_up
from torch import Tensor, nn
from torch.nn import functional as F

from minibert import Bert, BertConfig
from minibert import linear as module
from minibert.layout import Packed

# MiniLM's, a tiny model's, and the least
SIZES = [(384, 384), (384, 1536), (1536, 384), (24, 72), (1, 1)]


def operands(
    tokens: tuple[int, ...], inputs: int, outputs: int, dtype: torch.dtype
) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((*tokens, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("tokens", [(ENOUGH,), (3, 61), (1,), (1000,), (2, 3, 40)])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
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


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_its_float32_errors_are_within_those_of_adding_one_by_one(
    inputs: int, outputs: int
) -> None:
    """A sum of n products errs by at most n u sum|x w| (Higham 2002, section 3.1), which fewer bits
    would exceed."""
    x, weight, bias = operands((500,), inputs, outputs, torch.float32)
    exact = F.linear(x.double(), weight.double(), bias.double())
    most = (
        (inputs + 1)
        * 2**-24
        * F.linear(x.abs().double(), weight.abs().double(), bias.abs().double())
    )
    assert ((convolution(x, weight, bias) - exact).abs() <= most).all()


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_tokens_bits_do_not_depend_on_its_batch(inputs: int, outputs: int) -> None:
    """From ENOUGH tokens on: what the frozen-prefix cache relies on."""
    x, weight, bias = (t.detach() for t in operands((2000,), inputs, outputs, torch.float32))
    whole = convolution(x, weight, bias)
    for start, count in ((0, ENOUGH), (7, ENOUGH + 1), (100, 333), (300, 1024), (0, 1999)):
        assert torch.equal(
            convolution(x[start : start + count], weight, bias), whole[start : start + count]
        )


@pytest.mark.parametrize(
    ("tokens", "dtype", "expected"),
    [
        ((ENOUGH,), torch.float32, True),
        ((2, ENOUGH // 2), torch.float32, True),
        ((ENOUGH - 1,), torch.float32, False),
        ((ENOUGH,), torch.float64, False),
        ((ENOUGH,), torch.bfloat16, False),
        ((0,), torch.float32, False),
    ],
)
def test_is_a_convolution_for_many_tokens_in_float32(
    monkeypatch: pytest.MonkeyPatch, tokens: tuple[int, ...], dtype: torch.dtype, expected: bool
) -> None:
    """Also of a part of a larger tensor, which does not lie in memory as a matrix."""
    spy = Mock(wraps=convolution)
    monkeypatch.setattr(module, "convolution", spy)
    linear = nn.Linear(24, 72, dtype=dtype)
    x = torch.randn(*tokens, 48).to(dtype)[..., ::2]
    torch.testing.assert_close(FastLinear(linear)(x), linear(x))
    assert spy.called == expected


@pytest.mark.parametrize("tokens", [(0,), (1,), (3, 5), (ENOUGH,), (1000,)])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_inference_gives_what_training_gives(
    tokens: tuple[int, ...], inputs: int, outputs: int
) -> None:
    linear = nn.Linear(inputs, outputs)
    x = torch.randn(*tokens, 2 * inputs)[..., ::2]
    with torch.inference_mode():
        found = FastLinear(linear)(x)
    torch.testing.assert_close(found, linear(x), rtol=1e-5, atol=1e-5)


CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "a step": lambda linear: torch.optim.AdamW([linear.weight], lr=0.1).step(),
    "a fused step": lambda linear: torch.optim.AdamW([linear.weight], lr=0.1, fused=True).step(),
    "in place": lambda linear: nn.init.normal_(linear.weight),
    "another checkpoint": lambda linear: linear.load_state_dict(nn.Linear(24, 72).state_dict()),
    "another parameter": lambda linear: setattr(
        linear, "weight", nn.Parameter(torch.randn(72, 24))
    ),
    "there and back": lambda linear: linear.double().float(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_inference_sees_a_changed_weight(change: str) -> None:
    linear = FastLinear(nn.Linear(24, 72))
    linear.weight.grad = torch.randn_like(linear.weight)
    x = torch.randn(10, 24)
    with torch.inference_mode():
        linear(x)
    CHANGES[change](linear)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))


def test_inference_copies_a_weight_once_and_copies_of_the_layer_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy = Mock(wraps=module.arranged)
    monkeypatch.setattr(module, "arranged", spy)
    linear, x = FastLinear(nn.Linear(24, 72)), torch.randn(10, 24)
    with torch.inference_mode():
        first = linear(x)
        assert torch.equal(linear(x), first)
        assert spy.call_count == 1
    torch.testing.assert_close(copy.deepcopy(linear)(x), first)
    assert not linear(x).is_inference()


def test_a_layer_made_in_inference_mode_computes_too() -> None:
    with torch.inference_mode():
        linear, x = nn.Linear(24, 72), torch.randn(10, 24)
        torch.testing.assert_close(FastLinear(linear)(x), linear(x))


@pytest.mark.parametrize(("capability", "expected"), [("AVX512", FastLinear), ("AVX2", nn.Linear)])
def test_only_layers_of_an_avx512_processor_are_replaced(
    monkeypatch: pytest.MonkeyPatch, tiny_config: BertConfig, capability: str, expected: type
) -> None:
    """All of them, and the model keeps its parameters, their names and its values."""
    tiny = Bert(tiny_config).eval()
    ids = torch.randint(5, 50, (ENOUGH,))
    layout = Packed([8] * (ENOUGH // 8))
    before, parameters = tiny(ids, layout), dict(tiny.named_parameters())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    speed_up(tiny)
    kinds = [type(child) for child in tiny.modules() if isinstance(child, nn.Linear)]
    assert kinds == [expected] * len(kinds)
    assert kinds
    after = dict(tiny.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())
    torch.testing.assert_close(tiny(ids, layout), before, rtol=0, atol=1e-6)
