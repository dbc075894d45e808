"""Engines that train: the joint step of a sentence task and a token task, ours and as people write
it elsewhere.

Batch 32, dropout on, clipping, fused AdamW, the same sentences and learning rates for all.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minibert.encoder import SentenceEncoder
from minibert.formats.hub import find_model
from tools.benchmark.machine import useful_flop
from tools.benchmark.race import Engine, Work
from tools.joint import TransformersJoint, padded
from train.batches import Item
from train.cache import PrefixCache
from train.model import Forward
from train.optimizer import build_optimizer, set_rates
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import forward_backward
from train.words import UsedWords

BATCH = 32
LR, HEAD_LR, CLIP = 1e-4, 1e-3, 1.0


def engines(data: str, count: int, device: str = "cpu") -> list[Engine]:
    """The joint step, ours first: in float32, then in bfloat16 by autocast, which is all that is
    measured on a card."""
    same = {"data": data, "count": count, "device": device}
    needs = ("transformers",)
    engines = [
        Engine("minibert, packed", train_ours, same),
        Engine("minibert, packed, grouped by length", train_ours, same | {"grouped": True}),
        Engine(
            "transformers, padded per batch",
            train_transformers,
            same | {"padding": "batch"},
            packages=needs,
        ),
        Engine(
            "transformers, grouped by length",
            train_transformers,
            same | {"padding": "grouped"},
            packages=needs,
        ),
        Engine(
            "transformers, padded to 50",
            train_transformers,
            same | {"padding": "50"},
            packages=needs,
        ),
    ]
    lower = [
        replace(
            engine,
            arguments=engine.arguments | {"precision": "bfloat16"},
            precision="bfloat16",
            device=device,
        )
        for engine in engines
    ]
    return lower if device == "cuda" else engines + lower[:-1]


def frozen_engines(data: str, count: int) -> list[Engine]:
    """Five epochs with none, half and all of the backbone frozen, with and without the prefix
    cache."""
    same = {"data": data, "count": count, "epochs": 5}
    half = "embeddings, layers.0-2"
    return [
        Engine("nothing frozen", train_ours, same),
        Engine("lower half frozen", train_ours, same | {"freeze": half}),
        Engine("lower half frozen, cached", train_ours, same | {"freeze": half, "cache": True}),
        Engine("backbone frozen", train_ours, same | {"freeze": "backbone"}),
        Engine("backbone frozen, cached", train_ours, same | {"freeze": "backbone", "cache": True}),
    ]


def training_parts(data: str, **settings: Any) -> Parts:
    """What a run on MiniLM begins with."""
    rates: dict[str, Any] = {"lr": LR, "head_lr": HEAD_LR, "clip": CLIP}
    wanted = Settings(data=(data,), model="minilm", **rates, **settings)
    return assemble(wanted, announce=lambda _: None)


def training_flop(encoder: SentenceEncoder, items: Sequence[Item]) -> int:
    """An epoch's: the backward pass takes twice the products of the forward pass."""
    return 3 * useful_flop(encoder.bert.config, [item.num_tokens for item in items])


def planned(items: Sequence[Item], grouped: bool) -> list[list[int]]:
    """An epoch's batches, as train/run.py makes them: at random, or of sentences of similar
    length."""
    settings = Settings(batch_size=BATCH, group_by_length=grouped)
    steps = plan_steps([len(items)], settings, 1, [[item.num_tokens for item in items]])
    return [[number for _, number in batch] for (batch,) in steps]


def train_ours(
    data: str,
    count: int,
    grouped: bool = False,
    freeze: str = "",
    cache: bool = False,
    epochs: int = 1,
    device: str = "cpu",
    precision: str = "float32",
) -> Work:
    """Our own step, as train/run.py takes it, packed."""
    parts = training_parts(data, freeze=freeze, device=device, precision=precision)
    model, items = parts.model, parts.sources[0][:count]
    batches = planned(items, grouped)
    flop = training_flop(parts.encoder, items)
    # As `used_words_only` does; this process ends without saving anything.
    model.bert.embeddings.word = UsedWords(model.bert.embeddings.word, parts.token_ids())
    optimizer = build_optimizer(model, parts.mixer, parts.settings)
    set_rates(optimizer, 1.0)
    parameters = list(model.parameters())

    def work(job: str, batching: str) -> dict[str, float]:
        prefix = parts.plan.prefix(1) if cache else 0
        kept = PrefixCache(model, items, prefix, 2**30, Path(".")) if prefix else None
        forward: Forward = kept.forward if kept else model
        tokens = 0
        for _ in range(epochs):
            for numbers in batches:
                batch = parts.batch([items[i] for i in numbers])
                forward_backward([batch], model, forward, parts.mixer, parts.tasks, parts.settings)
                nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], CLIP)
                optimizer.step()
                optimizer.zero_grad()
                tokens += batch.input_ids.numel()
        finish(device)
        told: dict[str, float] = {"done": tokens}
        return told if freeze else told | {"flop": epochs * flop}

    return work


def train_transformers(
    data: str, count: int, padding: str, device: str = "cpu", precision: str = "float32"
) -> Work:
    """The step that people write with transformers' BertModel: linear heads on a masked mean and on
    first pieces.

    padding: "batch" (to the longest of each batch), "grouped" (that, with batches of similar
    lengths), or "50".
    """
    parts = training_parts(data, device=device)
    items = parts.sources[0][:count]
    flop = training_flop(parts.encoder, items)
    torch.manual_seed(0)
    model = TransformersJoint(find_model("minilm").path, parts.tasks).to(device)
    optimizer = torch.optim.AdamW(model.groups(LR, HEAD_LR, 0.01), fused=True)
    parameters = list(model.parameters())
    model.train()
    batches = planned(items, grouped=padding == "grouped")

    def work(job: str, batching: str) -> dict[str, float]:
        count = 0
        for numbers in batches:
            chosen = [items[i] for i in numbers]
            rows = padded(chosen, device, 50 if padding == "50" else None)
            count += int(rows.mask.sum())
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = model.loss(rows)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad()
        finish(device)
        return {"done": count, "flop": flop}

    return work


def finish(device: str) -> None:
    """Wait for what a card still computes."""
    if device == "cuda":
        torch.cuda.synchronize()
