"""Dropout with sixteen random bits an element: the same function as PyTorch's."""

import pytest
import torch
from minibert.dropout import Dropout, dropout


@pytest.mark.parametrize("shape", [(1_000_001,), (1000, 333, 3)])  # the former no multiple of four
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_drops_at_the_rate_asked_for_and_scales_the_rest(
    shape: tuple[int, ...], probability: float
) -> None:
    """Every place of four that share a draw alike, and no two neighbours together more often than
    by chance."""
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


def test_the_gradient_is_that_of_what_was_kept() -> None:
    x = torch.rand(64, 33, requires_grad=True)
    result = dropout(x + 1, 0.3)
    result.sum().backward()
    assert torch.equal(x.grad != 0, result != 0)  # type: ignore[operator]
    torch.testing.assert_close(x.grad * (x + 1), result)  # type: ignore[operator]


def test_follows_the_seed_and_is_off_in_eval_mode_and_at_zero() -> None:
    module, x = Dropout(0.5), torch.rand(100)
    torch.manual_seed(7)
    first, second = module(x), module(x)
    torch.manual_seed(7)
    assert torch.equal(module(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(dropout(x, 0.0), x)


def test_keeps_the_dtype_and_drops_everything_near_one() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert dropout(torch.ones(10, dtype=dtype), 0.5).dtype == dtype
