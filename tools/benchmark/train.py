"""Engines that train: the joint step of a sentence task and a token task, ours and as people write
it elsewhere.

Batch 32, dropout on, clipping, fused AdamW, the same sentences and learning rates for all.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from minibert.encoder import SentenceEncoder
from minibert.hub import find_model
from tools.benchmark.machine import useful_flop
from tools.benchmark.race import Engine, Work
from tools.joint import TransformersJoint, padded
from train.batches import Item, collate, token_ids
from train.cache import PrefixCache
from train.freezing import FreezingPlan
from train.mixing import LossMixer
from train.model import JointModel
from train.optimizer import build_optimizer, set_rates
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import load_data, tokenize
from train.step import forward_backward
from train.tasks import build_tasks
from train.tasks.base import Task
from train.words import UsedWords

BATCH = 32
LR, HEAD_LR, CLIP = 1e-4, 1e-3, 1.0


def engines(data: str, count: int, device: str = "cpu") -> list[Engine]:
    """The joint step, ours first. On a card in bfloat16, by autocast."""
    same = {"data": data, "count": count, "device": device}
    needs = ("transformers",)
    return [
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


def training_data(
    data: str, count: int, device: str
) -> tuple[SentenceEncoder, list[Task], list[Item], set[int]]:
    """The same first sentences for every engine, tokenized alike; and the words of all the data's
    splits."""
    encoder = SentenceEncoder.from_pretrained("minilm", device=device)
    sets = [load_data(data, seed=0, announce=lambda _: None)]
    tasks = build_tasks(sets, Settings())
    splits = tokenize(sets, tasks, encoder)
    return encoder, tasks, splits[0][0][:count], token_ids([*splits[0], *splits[1:]])


def training_flop(encoder: SentenceEncoder, items: Sequence[Item]) -> int:
    """An epoch's: the backward pass takes twice the products of the forward pass."""
    return 3 * useful_flop(encoder.bert.config, [item.num_tokens for item in items])


def planned(items: Sequence[Item], grouped: bool) -> list[list[int]]:
    """An epoch's batches, as train/run.py makes them: at random, or of sentences of similar
    length."""
    settings = Settings(batch_size=BATCH, group_by_length=grouped)
    steps = plan_steps([[item.num_tokens for item in items]], settings, epoch=1)
    return [[number for _, number in batch] for (batch,) in steps]


def train_ours(
    data: str,
    count: int,
    grouped: bool = False,
    freeze: str = "",
    cache: bool = False,
    epochs: int = 1,
    device: str = "cpu",
) -> Work:
    """Our own step, as train/run.py takes it, packed."""
    torch.manual_seed(0)
    # bf16: on a card only
    settings = Settings(lr=LR, head_lr=HEAD_LR, clip=CLIP, freeze=freeze, bf16=True)
    encoder, tasks, items, words = training_data(data, count, device)
    encoder.bert.embeddings.word = UsedWords(encoder.bert.embeddings.word, words)
    model = JointModel(encoder.bert, tasks).to(device)
    plan = FreezingPlan(model, freeze, "", tasks)
    plan.apply(1)
    mixer = LossMixer(tasks, settings).to(device)
    optimizer = build_optimizer(model, mixer, settings)
    set_rates(optimizer, 1.0)
    model.train()
    parameters = list(model.parameters())
    batches = planned(items, grouped)
    flop = training_flop(encoder, items)

    def work(job: str, batching: str) -> dict[str, float]:
        prefix = plan.prefix(1) if cache else 0
        kept = PrefixCache(model, items, prefix, 2**30, Path(".")) if prefix else None
        tokens = 0
        for _ in range(epochs):
            for numbers in batches:
                batch = collate([items[i] for i in numbers], tasks, device)
                forward_backward(
                    [batch], model, kept.hidden if kept else model, mixer, tasks, settings
                )
                nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], CLIP)
                optimizer.step()
                optimizer.zero_grad()
                tokens += batch.num_tokens
        finish(device)
        told: dict[str, float] = {"done": tokens}
        return told if freeze else told | {"flop": epochs * flop}

    return work


def train_transformers(data: str, count: int, padding: str, device: str = "cpu") -> Work:
    """The step that people write with transformers' BertModel: linear heads on a masked mean and on
    first pieces.

    padding: "batch" (to the longest of each batch), "grouped" (that, with batches of similar
    lengths), or "50".
    """
    torch.manual_seed(0)
    encoder, tasks, items, _ = training_data(data, count, device)
    flop = training_flop(encoder, items)
    sentence, tokens_task = (
        next(t for t in tasks if t.kind == kind) for kind in ("sentence", "tokens")
    )
    model = TransformersJoint(
        find_model("minilm").path, len(sentence.labels), len(tokens_task.labels)
    ).to(device)
    optimizer = torch.optim.AdamW(model.groups(LR, HEAD_LR, 0.01), fused=True)
    parameters = list(model.parameters())
    model.train()
    batches = planned(items, grouped=padding == "grouped")

    def work(job: str, batching: str) -> dict[str, float]:
        count = 0
        for numbers in batches:
            chosen = [items[i] for i in numbers]
            input_ids, mask, tags = padded(chosen, tokens_task, 50 if padding == "50" else None)
            count += int(mask.sum())
            labels = torch.tensor([sentence.values(item)[0] for item in chosen])
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = model.loss(*(x.to(device) for x in (input_ids, mask, tags, labels)))
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
