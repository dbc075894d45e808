"""The same training twice: by the pieces of train/, and by a plain loop with transformers and
torch.optim.

Both sides get a model folder, the same labelled sentences in the same order, the same first weights
of the heads and the same hyperparameters, with dropout off. All else each does by itself: token ids
and word pieces, the numbering of labels, padding, losses, learning rates, parameter groups,
clipping.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from minibert.config import BertConfig
from minibert.formats.names import checkpoint_name
from minibert.formats.tokenizer import SPECIAL_TOKENS
from minibert.model import Bert
from tools.parity import shake, worst
from train.batches import Batch
from train.data.examples import DataSet, Example
from train.load import load_data
from train.model import Forward, JointModel
from train.optimizer import adamw, build_optimizer, rate_factor, set_rates
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import forward_backward
from train.words import used_words_only


@dataclass(frozen=True)
class Lesson:
    """What both sides are given: sentences with a topic and entities, and how to learn from
    them."""

    folder: Path  # config.json, model.safetensors, vocab.txt
    examples: Sequence[Example]
    steps: int
    settings: Settings
    dtype: torch.dtype

    @property
    def sets(self) -> list[DataSet]:
        return [DataSet("newsroom", {"train": self.examples, "dev": self.examples})]

    def order(self) -> list[list[int]]:
        """The examples of each step, as train/run.py plans them, epoch after epoch."""
        epochs = (plan_steps([len(self.examples)], self.settings, epoch) for epoch in count(1))
        steps = (
            [number for batch in step for _, number in batch] for epoch in epochs for step in epoch
        )
        return list(islice(steps, self.steps))


@dataclass(frozen=True)
class Course:
    """What a side's training came to."""

    losses: list[dict[str, float]]  # each step's loss of each task
    parameters: dict[str, Tensor]  # at the end, by the names that `transformers` has for them


def newsroom(count: int) -> list[Example]:
    """The shortest sentences of newsroom's train split."""
    return sorted(
        load_data(Settings(), lambda _: None)[0].splits["train"],
        key=lambda example: len(example.text),
    )[:count]


def write_small_model(folder: Path, examples: Sequence[Example]) -> None:
    """A BERT of two layers with random weights, whose vocabulary is the sentences' own."""
    config = small_config(folder, examples)
    torch.manual_seed(0)
    shake(Bert(config, pooler=False), 0.05).save_pretrained(folder)


def small_config(folder: Path, examples: Sequence[Example]) -> BertConfig:
    """The sizes of a BERT of two layers; its vocabulary, the sentences' letters and most frequent
    words, is written into the folder."""
    words = Counter(word.lower() for example in examples for word in example.words or ())
    letters = sorted({letter for word in words for letter in word})
    whole = [word for word, _ in words.most_common(300) if len(word) > 1]
    vocabulary = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *whole]
    (folder / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in vocabulary), encoding="utf-8"
    )
    return BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=128,
        initializer_range=0.1,
    )


def our_parts(lesson: Lesson) -> Parts:
    """What a run of this lesson begins with; its heads are the same whenever it is set up."""
    settings = replace(lesson.settings, model=str(lesson.folder), device="cpu", dropout=0.0)
    return assemble(settings, sets=lesson.sets, dtype=lesson.dtype)


def padded(model: JointModel) -> Forward:
    """The forward pass with a `Padded` layout; its result is (N, D), as the packed one's."""

    def forward(batch: Batch) -> Tensor:
        rows = batch.input_ids.split(batch.layout.lengths)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        padding = int(rows[0][0])  # any word will do that the run holds; it is masked
        return model.bert(pad_sequence(rows, batch_first=True, padding_value=padding), mask)[
            mask.bool()
        ]

    return forward


def our_course(
    lesson: Lesson, layout: Callable[[JointModel], Forward] | None = None, accumulate: int = 1
) -> Course:
    """The steps as train/run.py takes them. layout: `padded`, or packed as ever. accumulate: the
    batches that share a step's sentences, whose words are not equally many."""
    parts = our_parts(lesson)
    model, (items,) = parts.model, parts.sources
    steps = [
        [parts.batch([items[i] for i in step[n::accumulate]]) for n in range(accumulate)]
        for step in lesson.order()
    ]
    with used_words_only(model.bert, parts.token_ids(), adamw):
        losses = our_losses(parts, steps, layout(model) if layout else model)
    parameters = {
        checkpoint_name(name): p.detach()
        for name, p in model.bert.named_parameters()
        if p.requires_grad
    }
    return Course(
        losses, parameters | {name: p.detach() for name, p in model.heads.named_parameters()}
    )


def our_losses(
    parts: Parts, steps: Sequence[Sequence[Batch]], forward: Forward
) -> list[dict[str, float]]:
    """Train by some steps' batches, as train/run.py does. Returns each step's losses."""
    model, settings = parts.model, parts.settings
    optimizer = build_optimizer(model, parts.mixer, settings)
    losses = []
    for number, batches in enumerate(steps):
        set_rates(optimizer, rate_factor(number, len(steps), settings))
        found = forward_backward(batches, model, forward, parts.mixer, parts.tasks, settings)
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.means())
    return losses


def their_course(lesson: Lesson) -> Course:
    """A loop in plain PyTorch around `transformers.BertModel`, as a notebook would have it."""
    from transformers import AutoTokenizer, BertModel

    settings = lesson.settings
    tokenizer = AutoTokenizer.from_pretrained(lesson.folder)
    off: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert: Any = BertModel.from_pretrained(
        lesson.folder, add_pooling_layer=False, attn_implementation="eager", **off
    )
    bert.to(lesson.dtype).train()
    topics = sorted({str(example.labels["topic"]) for example in lesson.examples})
    gold = [cast(tuple[str, ...], example.labels["entities"]) for example in lesson.examples]
    types = sorted({tag[2:] for words in gold for tag in words if tag != "O"})
    tags = ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]
    heads = nn.ModuleDict({"topic": nn.Linear(bert.config.hidden_size, len(topics))})
    heads["entities"] = nn.Linear(bert.config.hidden_size, len(tags))
    first = our_parts(lesson).model.heads.state_dict()
    heads.to(lesson.dtype).load_state_dict(
        {name.replace("classifier.", ""): value for name, value in first.items()}
    )

    step_by = their_stepper(bert, heads, settings, lesson.steps)
    losses = []
    for step in lesson.order():
        examples = [lesson.examples[i] for i in step]
        batch = tokenizer(
            [list(example.words or ()) for example in examples],
            is_split_into_words=True,
            padding=True,
            return_tensors="pt",
        )
        labels = torch.tensor([topics.index(str(example.labels["topic"])) for example in examples])
        # a word's first piece has its tag, all else has none
        targets = torch.full_like(batch["input_ids"], -100)
        for row, i in enumerate(step):
            before = None
            for position, word in enumerate(batch.word_ids(row)):
                if word is not None and word != before:
                    targets[row, position] = tags.index(gold[i][word])
                before = word
        hidden = bert(**batch).last_hidden_state  # (B, S, D)
        weights = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * weights).sum(1) / weights.sum(1)  # (B, S, D) -> (B, D)
        topic_loss = F.cross_entropy(heads["topic"](vectors), labels)
        entities_loss = F.cross_entropy(
            heads["entities"](hidden).flatten(0, 1), targets.flatten(), ignore_index=-100
        )
        step_by(topic_loss + entities_loss)
        losses.append({"topic": topic_loss.item(), "entities": entities_loss.item()})
    named = {name.replace(".", ".classifier."): p.detach() for name, p in heads.named_parameters()}
    return Course(losses, {name: p.detach() for name, p in bert.named_parameters()} | named)


def their_stepper(
    encoder: nn.Module, heads: nn.Module, settings: Settings, steps: int
) -> Callable[[Tensor], None]:
    """What takes one step down a loss, by torch.optim's AdamW, linear schedule and clipping."""
    named = dict(encoder.named_parameters())
    shared = {id(p) for p in named.values()}  # a tied decoder learns as the embeddings do
    others = {name: p for name, p in heads.named_parameters() if id(p) not in shared}

    def is_decayed(name: str) -> bool:
        return not name.endswith("bias") and "LayerNorm" not in name

    groups = [
        {
            "params": [p for n, p in parameters.items() if is_decayed(n) == decays],
            "lr": rate,
            "weight_decay": d,
        }
        for parameters, rate in ((named, settings.lr), (others, settings.head_lr))
        for decays, d in ((True, settings.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)  # the default's loops take nine times as long
    warmup = round(settings.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / (warmup + 1) if step < warmup else (steps - step) / max(steps - warmup, 1)
        ),
    )

    def take(loss: Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_([*named.values(), *others.values()], settings.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return take


def loss_difference(ours: Course, theirs: Course) -> float:
    """The largest relative difference of a task's loss at a step."""
    pairs = zip(ours.losses, theirs.losses, strict=True)
    return worst(abs(a[name] - b[name]) / b[name] for a, b in pairs for name in a.keys() | b.keys())


def parameter_difference(ours: Course, theirs: Course) -> float:
    """The largest difference in a parameter, over that parameter's largest value.

    Key biases are left out. A key's bias adds the same to all scores of a query, which softmax does
    not see: its true gradient is 0, what is computed is rounding noise, and Adam, which divides a
    gradient by its own size, makes steps of it.
    """
    assert ours.parameters.keys() == theirs.parameters.keys()
    return worst(
        ((ours.parameters[name] - p).abs().max() / p.abs().max()).item()
        for name, p in theirs.parameters.items()
        if not name.endswith("self.key.bias")
    )
