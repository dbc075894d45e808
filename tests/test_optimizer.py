"""Parameter groups, learning rates by depth, weight decay, schedules.

Evidence: AdamW written out here in float64, step by step, for every parameter; the schedules
against those of `transformers` where they agree, and by their properties elsewhere.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minibert.files import InputError
from tests.training import World, differing, log_of, make_world, trained, weights
from train.optimizer import (
    build_optimizer,
    learning_rates,
    new_groups,
    no_decay,
    rate_factor,
    set_rates,
)
from train.run import train
from train.setup import assemble
from train.step import forward_backward


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


# Learning rates


def test_rates_fall_with_depth(world: World) -> None:
    """Layer k of L, counted from 1, has lr * decay ** (L - k); the embeddings are layer 0."""
    settings = world.settings(lr=1e-3, layer_decay=0.5, head_lr=3e-2)
    assert learning_rates(assemble(settings).model, settings) == {
        "embeddings": 1e-3 / 8,
        "layers.0": 1e-3 / 4,
        "layers.1": 1e-3 / 2,
        "layers.2": 1e-3,
        "head.intent": 3e-2,
        "head.slots": 3e-2,
    }


def test_rates_are_equal_without_decay(world: World) -> None:
    settings = world.settings(lr=2e-4)
    rates = learning_rates(assemble(settings).model, settings)
    assert {name: rate for name, rate in rates.items() if rate != 2e-4} == {
        "head.intent": 0.01,
        "head.slots": 0.01,
    }


def test_rates_given_by_group(world: World) -> None:
    """The three rates of the notebooks: what is named later wins."""
    settings = world.settings(
        group_lr="backbone=1e-5, head.slots=2e-4, layers.1-2=1e-4", layer_decay=0.9
    )
    assert learning_rates(assemble(settings).model, settings) == {
        "embeddings": 1e-5,
        "layers.0": 1e-5,
        "layers.1": 1e-4,
        "layers.2": 1e-4,
        "head.intent": 0.01,
        "head.slots": 2e-4,
    }


@pytest.mark.parametrize(
    ("group_lr", "message"),
    [
        ("layers.3=1e-5", r"group_lr = 'layers\.3': 'layers\.3' matches nothing"),
        ("head.topic=1e-5", r"matches nothing"),
        ("layers.0=fast", r"group_lr of layers\.0: 'fast' is no number of at least 0"),
        ("layers.0=-1", r"'-1' is no number of at least 0"),
        ("layers.0", r"should read name=value"),
    ],
)
def test_rates_that_make_no_sense_are_refused(
    world: World, tmp_path: Path, group_lr: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(world.settings(group_lr=group_lr), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Groups


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze": "embeddings,layers.0"},
        {"freeze": "backbone"},
        {"freeze": "heads", "loss": "uncertainty"},
        {"freeze": "all"},
        {"freeze": "all", "loss": "uncertainty"},
    ],
    ids=str,
)
def test_groups_hold_every_learning_parameter_once(world: World, changes: dict[str, Any]) -> None:
    parts = assemble(world.settings(**changes))
    optimizer = build_optimizer(parts.model, parts.mixer, parts.settings)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    learning = [
        p for p in [*parts.model.parameters(), *parts.mixer.parameters()] if p.requires_grad
    ]
    assert sorted(held) == sorted(map(id, learning))


def test_unfreezing_adds_each_parameter_once(world: World) -> None:
    settings = world.settings(
        freeze="backbone", unfreeze="2: layers.2; 3: layers.1", epochs=3, layer_decay=0.5
    )
    parts = assemble(settings)
    optimizer = build_optimizer(parts.model, parts.mixer, settings)
    units = [{group["unit"] for group in optimizer.param_groups}]
    for epoch in (2, 3, 3, 4):
        parts.plan.apply(epoch)
        for group in new_groups(parts.model, settings, optimizer):
            optimizer.add_param_group(group)
        units.append({group["unit"] for group in optimizer.param_groups})
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in parts.model.parameters() if p.requires_grad)
    heads = {"head.intent", "head.slots"}
    assert units == [heads, heads | {"layers.2"}, *[heads | {"layers.2", "layers.1"}] * 3]
    rates = {group["unit"]: group["peak_lr"] for group in optimizer.param_groups}
    assert rates == {"head.intent": 0.01, "head.slots": 0.01, "layers.2": 1e-3, "layers.1": 5e-4}
    assert not list(new_groups(parts.model, settings, optimizer))


def test_set_rates_scales_each_groups_own(world: World) -> None:
    parts = assemble(world.settings(layer_decay=0.5))
    optimizer = build_optimizer(parts.model, parts.mixer, parts.settings)
    set_rates(optimizer, 0.25)
    assert {g["unit"]: g["lr"] for g in optimizer.param_groups} == {
        name: rate / 4 for name, rate in learning_rates(parts.model, parts.settings).items()
    }


# Weight decay


def test_decay_is_decided_by_the_modules_type() -> None:
    """A norm under any name is left alone, and a matrix is decayed under any name."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scaling = nn.LayerNorm(4)
            self.norm_projection = nn.Linear(4, 4)
            self.bias_table = nn.Embedding(3, 4)
            self.inner = nn.ModuleDict({"LayerNorm": nn.Linear(4, 2), "weights": nn.LayerNorm(4)})

    odd = Odd()
    free = {name for name, parameter in odd.named_parameters() if id(parameter) in no_decay(odd)}
    assert free == {
        "scaling.weight",
        "scaling.bias",
        "norm_projection.bias",
        "inner.LayerNorm.bias",
        "inner.weights.weight",
        "inner.weights.bias",
    }


def test_decay_alone_shrinks_matrices_and_nothing_else(world: World) -> None:
    """With gradients of 0 AdamW only decays: every matrix, the embeddings' among them, by lr *
    decay."""
    settings = world.settings(weight_decay=0.1, layer_decay=0.5)
    parts = assemble(settings, dtype=torch.float64)
    rates = learning_rates(parts.model, settings)
    optimizer = build_optimizer(parts.model, parts.mixer, settings)
    before = weights(parts.model)
    for parameter in parts.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_rates(optimizer, 1.0)
    optimizer.step()
    decayed = set()
    for unit, module in parts.model.units().items():
        for name, parameter in module.named_parameters():
            old = before[
                ("heads." if unit.startswith("head.") else "bert.")
                + unit.removeprefix("head.")
                + "."
                + name
            ]
            if torch.equal(parameter, old):
                continue
            decayed.add(f"{unit}.{name}")
            torch.testing.assert_close(
                parameter.detach(), old * (1 - rates[unit] * 0.1), rtol=1e-12, atol=0
            )
    matrices = ["attention.query", "attention.key", "attention.value", "attention.output"]
    matrices += ["feed_forward.intermediate", "feed_forward.output"]
    assert decayed == {
        *(f"embeddings.{table}.weight" for table in ("word", "position", "token_type")),
        *(f"layers.{i}.{matrix}.weight" for i in range(3) for matrix in matrices),
        "head.intent.classifier.weight",
        "head.slots.classifier.weight",
    }


def test_steps_are_adamw_by_hand(world: World) -> None:
    """Four steps of real gradients, each parameter with its own rate and decay (Loshchilov and
    Hutter 2019)."""
    settings = world.settings(
        layer_decay=0.7, weight_decay=0.05, loss="uncertainty", dropout=0.0, freeze="layers.0"
    )
    parts = assemble(settings, dtype=torch.float64)
    optimizer = build_optimizer(parts.model, parts.mixer, settings)
    rates = learning_rates(parts.model, settings)
    expected: list[tuple[nn.Parameter, torch.Tensor, float, float]] = []
    for unit, module in parts.model.units().items():
        for child in module.modules():
            for name, p in child.named_parameters(recurse=False):
                decay = 0.0 if name == "bias" or isinstance(child, nn.LayerNorm) else 0.05
                expected.append(
                    (p, p.detach().clone(), 0.0 if unit == "layers.0" else rates[unit], decay)
                )
    expected += [(p, p.detach().clone(), settings.head_lr, 0.0) for p in parts.mixer.parameters()]
    moments = [(torch.zeros_like(value), torch.zeros_like(value)) for _, value, _, _ in expected]
    for t, factor in enumerate((0.25, 0.5, 1.0, 0.8), start=1):
        items = parts.sources[0][8 * t : 8 * t + 8]
        forward_backward(
            [parts.batch(items)], parts.model, parts.model, parts.mixer, parts.tasks, settings
        )
        set_rates(optimizer, factor)
        for (p, value, rate, decay), (m, v) in zip(expected, moments, strict=True):
            if p.grad is not None:
                m.mul_(0.9).add_(0.1 * p.grad)
                v.mul_(0.999).add_(0.001 * p.grad**2)
                lr = rate * factor
                value.mul_(1 - lr * decay)
                value.sub_(lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8))
        optimizer.step()
        optimizer.zero_grad()
    for p, value, _, _ in expected:
        torch.testing.assert_close(p.detach(), value, rtol=1e-9, atol=1e-12)


# Schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
def test_rates_rise_and_then_fall(world: World, schedule: str, warmup: float) -> None:
    settings = world.settings(schedule=schedule, warmup=warmup)
    for total in (*range(1, 40), 1000):
        factors = [rate_factor(step, total, settings) for step in range(total)]
        assert all(0 < factor <= 1 for factor in factors)  # no step is for nothing
        rising = round(warmup * total)
        assert all(a < b for a, b in pairwise(factors[: rising + 1]))
        falling = factors[rising:]
        assert falling[:1] in ([1.0], [])
        if schedule == "constant":
            assert set(falling) <= {1.0}
        else:
            assert all(a > b for a, b in pairwise(falling))
            if rising < total:  # the step after the last would have 0
                assert rate_factor(total, total, settings) == pytest.approx(0, abs=1e-12)


def test_linear_and_cosine_by_hand(world: World) -> None:
    linear, cosine = (
        world.settings(schedule=schedule, warmup=0.2) for schedule in ("linear", "cosine")
    )
    assert [rate_factor(step, 10, linear) for step in range(10)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert [rate_factor(step, 10, cosine) for step in range(2, 10)] == pytest.approx(
        [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_are_those_of_transformers_after_the_warm_up(world: World, schedule: str) -> None:
    """There the first step has rate 0, which trains nothing, and step i of w has i / w; here it has
    (i + 1) / (w + 1).

    So both reach the highest rate in step w, and are the same from there on.
    """
    optimization = pytest.importorskip("transformers.optimization")
    theirs = getattr(optimization, f"get_{schedule}_schedule_with_warmup")
    settings = world.settings(schedule=schedule, warmup=0.25)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = theirs(optimizer, num_warmup_steps=5, num_training_steps=20)
    for step in range(20):
        rate = optimizer.param_groups[0]["lr"]
        ours = rate_factor(step, 20, settings)
        if step >= 5:
            assert ours == pytest.approx(rate, abs=1e-12)
        else:
            assert rate == pytest.approx(step / 5)
            assert ours == pytest.approx((step + 1) / 6)
        optimizer.step()
        scheduler.step()


# In a run


def test_clip_limits_the_norm_of_the_whole_gradient(world: World, tmp_path: Path) -> None:
    """A limit far below AdamW's epsilon stops all movement; 0 and a limit that is never reached are
    the same."""
    runs = {
        name: world.settings(clip=clip, weight_decay=0.0, epochs=1)
        for name, clip in (("tiny", 1e-14), ("none", 0.0), ("high", 1e9), ("one", 1.0))
    }
    for name, settings in runs.items():
        train(settings, tmp_path / name)
    start = weights(assemble(runs["tiny"]).model)
    left = {name: trained(tmp_path / name) for name in runs}
    assert all(float((start[key] - left["tiny"][key]).abs().max()) < 1e-6 for key in start)
    unmoved = {key for key in start if float((start[key] - left["one"][key]).abs().max()) < 1e-4}
    # A constant added to all keys changes no softmax: the gradient of that bias is rounding alone.
    assert unmoved <= {f"bert.layers.{i}.attention.key.bias" for i in range(3)}
    assert not differing(left["none"], left["high"])
    norms = {
        name: [entry["norm"] for entry in log_of(tmp_path / name) if "norm" in entry]
        for name in runs
    }
    assert norms["none"][0] == norms["tiny"][0] > 1.0  # the norm before clipping
    assert differing(left["one"], left["none"])


def test_logged_norm_is_that_of_the_gradient(world: World, tmp_path: Path) -> None:
    # one step of all sentences
    settings = world.settings(epochs=1, batch_size=44, loss="uncertainty", dropout=0.0)
    train(settings, tmp_path / "run")
    parts = assemble(settings)
    forward_backward(
        [parts.batch(parts.sources[0])],
        parts.model,
        parts.model,
        parts.mixer,
        parts.tasks,
        settings,
    )
    gradients = [
        p.grad.flatten()
        for p in [*parts.model.parameters(), *parts.mixer.parameters()]
        if p.grad is not None
    ]
    (entry,) = (entry for entry in log_of(tmp_path / "run") if "norm" in entry)
    assert entry["norm"] == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-5)
