"""Ours without each part of minibert/fast: what that part saves."""

from pathlib import Path
from unittest.mock import patch

from torch import nn

import minibert.encoder
import minibert.fast
import train.model
from minibert.fast.attention import FastAttention, GroupedAttention
from minibert.fast.dropout import FastDropout
from minibert.fast.linear import FastLinear
from minibert.model import Attention, Bert
from tools.benchmark import encode
from tools.benchmark import train as training
from tools.benchmark.race import Engine, Work
from train.model import JointModel

PLAIN = {
    "FastLinear": (FastLinear, nn.Linear),
    "FastDropout": (FastDropout, nn.Dropout),
    "GroupedAttention": (GroupedAttention, Attention),
}


def encoding_engines(folder: Path, model: Path) -> list[Engine]:
    """Encoding with all parts, then without each."""
    same = {"folder": str(folder), "model": str(model)}
    left_out = ("ArrangedLinear", "FastAttention", "side_by_side", "keep_freed_memory")
    return [
        Engine("all parts", encode.ours, same),
        *(Engine(f"without {part}", encode_without, same | {"part": part}) for part in left_out),
    ]


def training_engines(data: str, count: int) -> list[Engine]:
    """Training with all parts, then without each."""
    same = {"data": data, "count": count}
    return [
        Engine("all parts", training.train_ours, same),
        *(Engine(f"without {part}", train_without, same | {"part": part}) for part in PLAIN),
    ]


def encode_without(folder: str, model: str, part: str) -> Work:
    """`encode.ours` without one part, for as long as this process lives."""
    if part == "ArrangedLinear":
        patch.object(minibert.fast, "has_arranged_products", lambda: False).start()
    elif part == "FastAttention":
        copied = minibert.fast.inference_copy

        def plain_copy(bert: Bert) -> nn.Module:
            fast = copied(bert)
            minibert.fast.change_classes(fast, {FastAttention: Attention})
            return fast

        patch.object(minibert.encoder, "inference_copy", plain_copy).start()
    elif part == "side_by_side":
        one_by_one = lambda compute, inputs, workers: map(compute, inputs)  # noqa: E731
        patch.object(minibert.encoder, "side_by_side", one_by_one).start()
    else:
        patch.object(minibert.encoder, part, lambda: None).start()
    return encode.ours(folder, model)


def train_without(data: str, count: int, part: str) -> Work:
    """`train.train_ours` without one part, for as long as this process lives."""
    fast, plain = PLAIN[part]
    speed_up = train.model.make_fast

    def all_but_one(model: JointModel) -> None:
        speed_up(model)
        minibert.fast.change_classes(model, {fast: plain})

    patch.object(train.setup, "make_fast", all_but_one).start()
    return training.train_ours(data, count)
