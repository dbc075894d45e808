"""Ours without each part of minibert/fast: what that part saves."""

from collections.abc import Callable
from pathlib import Path
from typing import cast
from unittest.mock import patch

import torch
from torch import nn

import minibert.encoder
import minibert.fast
import minibert.vectors
import train.setup
from minibert.fast.arranged import ArrangedAttention, ArrangedFeedForward, ArrangedLinear
from minibert.fast.attention import FastAttention, GroupedAttention
from minibert.fast.dropout import FastDropout
from minibert.fast.linear import FastLinear
from minibert.model import Attention, Bert, FeedForward
from tools.benchmark import encode
from tools.benchmark import train as training
from tools.benchmark.race import Engine, Work
from train.model import JointModel

PLAIN = {
    "FastLinear": (FastLinear, nn.Linear),
    "FastDropout": (FastDropout, nn.Dropout),
    "GroupedAttention": (GroupedAttention, Attention),
}
JOINED = {
    "ArrangedAttention": (ArrangedAttention, FastAttention),
    "ArrangedFeedForward": (ArrangedFeedForward, FeedForward),
}


def encoding_engines(folder: Path, model: Path, precision: str) -> list[Engine]:
    """Encoding with all parts, then without each."""
    same = {"folder": str(folder), "model": str(model), "precision": precision}
    left_out = [*JOINED, "FastAttention", "side_by_side", "keep_freed_memory"]
    if precision == "float32":  # bfloat16 has no other products
        left_out.insert(0, "ArrangedLinear")
    return [
        Engine("all parts", encode.ours, same, precision=precision),
        *(
            Engine(f"without {part}", encode_without, same | {"part": part}, precision=precision)
            for part in left_out
        ),
    ]


def training_engines(data: str, count: int, precision: str) -> list[Engine]:
    """Training with all parts, then without each."""
    same = {"data": data, "count": count, "precision": precision}
    return [
        Engine("all parts", training.train_ours, same, precision=precision),
        *(
            Engine(f"without {part}", train_without, same | {"part": part}, precision=precision)
            for part in PLAIN
        ),
    ]


def encode_without(folder: str, model: str, precision: str, part: str) -> Work:
    """`encode.ours` without one part, for as long as this process lives."""
    if part == "ArrangedLinear":
        patch.object(minibert.fast, "has_arranged_products", lambda: False).start()
    elif part in JOINED:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        change_copies(lambda fast: take_apart(fast, *JOINED[part], dtype))
    elif part == "FastAttention":
        change_copies(without_fast_attention)
    elif part == "side_by_side":
        one_by_one = lambda compute, inputs, workers: map(compute, inputs)  # noqa: E731
        patch.object(minibert.vectors, "side_by_side", one_by_one).start()
    else:
        patch.object(minibert.encoder, part, lambda: None).start()
    return encode.ours(folder, model, precision=precision)


def change_copies(change: Callable[[nn.Module], None]) -> None:
    """Let the encoder change each fast copy that it makes of a model."""
    copied = minibert.encoder.inference_copy

    def changed(bert: Bert, bfloat16: bool = False) -> nn.Module:
        fast = copied(bert, bfloat16)
        change(fast)
        return fast

    patch.object(minibert.encoder, "inference_copy", changed).start()


def without_fast_attention(fast: nn.Module) -> None:
    """Compute attention by the formula of model.py, in place; the products stay joined."""
    for part in fast.modules():
        if isinstance(part, FastAttention):
            part.attention = Attention.attention


def take_apart(
    fast: nn.Module, joined: type[nn.Module], single: type[nn.Module], dtype: torch.dtype
) -> None:
    """Give the layers of a joined product products of their own, in place."""
    for part in fast.modules():
        if type(part) is joined:
            part.__class__ = single
            for layer in part.children():
                if type(layer) in (nn.Linear, FastLinear):
                    layer.__class__ = ArrangedLinear
                    ArrangedLinear.arrange(cast(ArrangedLinear, layer), dtype)


def train_without(data: str, count: int, precision: str, part: str) -> Work:
    """`train.train_ours` without one part, for as long as this process lives."""
    fast, plain = PLAIN[part]
    speed_up = train.setup.make_fast

    def all_but_one(model: JointModel) -> None:
        speed_up(model)
        minibert.fast.change_classes(model, {fast: plain})

    patch.object(train.setup, "make_fast", all_but_one).start()
    return training.train_ours(data, count, precision=precision)
