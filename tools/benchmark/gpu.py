"""Engines that encode on a CUDA card.

One of ours computes attention over sentences of their own lengths, by PyTorch's kernel for that.
The library pads neighbours of similar length; so this says what that kernel would save.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import minibert.fast
from minibert.fast.attention import FastAttention
from minibert.layout import Layout, Packed
from tools.benchmark import encode
from tools.benchmark.race import Engine, Work


def engines(folder: Path, model: Path) -> list[Engine]:
    """The engines in bfloat16.

    Ours by autocast, which leaves weights and norms in float32; with weights and states in
    bfloat16, as transformers has them; and that without padding.
    """
    same = {"folder": str(folder), "model": str(model), "device": "cuda"}
    half, weights_too = same | {"precision": "bfloat16"}, same | {"dtype": "bfloat16"}
    batches = ("32 texts", "128 texts", "16384 tokens", "65536 tokens")
    packages = ("transformers",)
    found = [
        Engine("minibert", encode.ours, half, batches[2:]),
        Engine("minibert, weights too", encode.ours, weights_too, batches[2:]),
        Engine("minibert, weights too, no padding", ours_without_padding, weights_too, batches[2:]),
        Engine("transformers sdpa", encode.transformers, half, batches, packages),
        Engine(
            "transformers flash attention 2",
            encode.transformers,
            half | {"attention": "flash_attention_2"},
            batches,
            (*packages, "flash-attn"),
        ),
    ]
    return [replace(engine, precision="bfloat16", device="cuda") for engine in found]


class VariableLengthAttention(FastAttention):
    """Attention over packed tokens in one call, without padding: for inference in half precision on
    a card."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # since PyTorch 2.10

        assert isinstance(layout, Packed)
        lengths = torch.tensor([0, *layout.lengths], dtype=torch.int32, device=x.device)
        starts = lengths.cumsum(0, dtype=torch.int32)  # (B + 1)
        longest = layout.longest, layout.longest
        query, key, value = self.project(x)  # (N, H, W)
        context: Any = varlen_attn(query, key, value, starts, starts, *longest)  # (N, H, W)
        return self.output(context.flatten(-2))  # (N, H, W) -> (N, D)


def ours_without_padding(folder: str, model: str, device: str, dtype: str) -> Work:
    """`encode.ours` with that attention, for as long as this process lives."""
    patch.object(minibert.fast, "GroupedAttention", VariableLengthAttention).start()
    return encode.ours(folder, model, device, dtype)
