"""The optimizer, with a learning rate for each depth, and how the rates move over a run."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from train.freezing import select
from train.model import JointModel
from train.parse import parse_number, parse_pairs
from train.settings import Settings

BuildOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2, arXiv:1711.05101), in one fused kernel.

        m = β_1 m + (1 - β_1) g
        v = β_2 v + (1 - β_2) g^2
        M = m / (1 - β_1^t), V = v / (1 - β_2^t)
        w = w - lr (M / (sqrt(V) + eps) + decay w)

    w: a weight; g: its gradient; t: the step, counted from 1; m, v: 0 at first.
    """
    return torch.optim.AdamW(groups, fused=True)


def learning_rates(model: JointModel, settings: Settings) -> dict[str, float]:
    """The highest learning rate of each unit.

    Layer k of L has lr * layer_decay ** (L - k), the embeddings as layer 0 and the pooler as layer
    L: lower layers are more general, and learn more slowly (Howard and Ruder 2018, section 3.2,
    arXiv:1801.06146). Heads have head_lr. `group_lr` overrides both.
    """
    depth = len(model.bert.layers)
    levels = {f"layers.{i}": i + 1 for i in range(depth)} | {"embeddings": 0, "pooler": depth}
    rates = {
        name: settings.lr * settings.layer_decay ** (depth - levels[name])
        if name in levels
        else settings.head_lr
        for name in model.units()
    }
    for text, rate in parse_pairs(settings.group_lr, "group_lr").items():
        for name in select(text, list(rates), "group_lr"):
            rates[name] = parse_number(rate, f"group_lr of {text}")
    return rates


def no_decay(unit: nn.Module) -> set[int]:
    """The ids of the parameters that weight decay leaves alone: biases, and all of a norm (by the
    module's type). So what decays is the matrices: those of linear layers, and the embeddings."""
    return {
        id(parameter)
        for module in unit.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, nn.LayerNorm)
    }


def new_groups(
    model: JointModel, settings: Settings, optimizer: torch.optim.Optimizer | None = None
) -> Iterator[dict[str, Any]]:
    """Two groups for each unit that learns and is not in the optimizer yet: matrices, and what is
    not decayed."""
    rates = learning_rates(model, settings)
    present = {group["unit"] for group in optimizer.param_groups} if optimizer else set()
    for name, unit in model.units().items():
        if name in present:
            continue
        free = no_decay(unit)
        for decays in (True, False):
            parameters = [
                p for p in unit.parameters() if p.requires_grad and (id(p) not in free) == decays
            ]
            if parameters:
                yield {
                    "params": parameters,
                    "unit": name,
                    "peak_lr": rates[name],
                    "lr": 0.0,  # `set_rates` sets it before each step
                    "weight_decay": settings.weight_decay if decays else 0.0,
                }


def build_optimizer(
    model: JointModel, mixer: nn.Module, settings: Settings, build: BuildOptimizer = adamw
) -> torch.optim.Optimizer:
    """An optimizer of all that learns now. build: makes it from its parameter groups."""
    groups = list(new_groups(model, settings))
    mixing = list(mixer.parameters())
    if mixing or not groups:  # torch refuses an optimizer without a group
        groups.append(
            {
                "params": mixing,
                "unit": "loss",
                "peak_lr": settings.head_lr,
                "lr": 0.0,
                "weight_decay": 0.0,
            }
        )
    return build(groups)


def rate_factor(step: int, total: int, settings: Settings) -> float:
    """What share of its highest rate each group has in a step, counted from 0: up over the warm-up,
    then down to 0."""
    warmup = round(settings.warmup * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    if settings.schedule == "linear":
        return 1 - done
    return (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1.0


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group this share of its highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
