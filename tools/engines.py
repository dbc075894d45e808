"""What `tools.benchmark` measures: each engine is a function that gets ready and returns the work to be timed.

An engine runs in a process of its own, so that its memory is its own and no two libraries share a thread pool.
The peers' own best ways of working are used: fused AdamW, batches grouped by length, their fastest attention.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.encoder import SentenceEncoder
from minibert.hub import find_model
from train.cache import PrefixCache
from train.data import Item, collate
from train.freezing import FreezingPlan
from train.mixing import LossMixer
from train.optimizer import build_optimizer, set_rates
from train.readers import load_data
from train.run import backward, tokenize, used_ids
from train.settings import Settings
from train.tasks import JointModel, Task, build_tasks, first_pieces
from train.words import UsedWords

BATCH = 32
LR, HEAD_LR, CLIP = 1e-4, 1e-3, 1.0
Work = Callable[[], int]  # does the work once, and returns how many real tokens that were


def training_data(data: str, count: int) -> tuple[SentenceEncoder, list[Task], list[Item], set[int]]:
    """The same first sentences for every engine, tokenized alike; and the words of all the data's splits."""
    encoder = SentenceEncoder.from_pretrained("minilm")
    sets = [load_data(data, seed=0, announce=lambda _: None)]
    tasks = build_tasks(sets, Settings())
    splits = tokenize(sets, tasks, encoder)
    return encoder, tasks, splits[0][0][:count], used_ids([*splits[0], *splits[1:]])


def train_ours(data: str, count: int, freeze: str = "", cache: bool = False, epochs: int = 1) -> Work:
    """Our own step, as train/run.py takes it: packed, dropout on, clipping, fused AdamW."""
    torch.manual_seed(0)
    settings = Settings(lr=LR, head_lr=HEAD_LR, clip=CLIP, freeze=freeze)
    encoder, tasks, items, words = training_data(data, count)
    encoder.bert.embeddings.word = UsedWords(encoder.bert.embeddings.word, words)
    model = JointModel(encoder.bert, tasks)
    plan = FreezingPlan(model, freeze, "", tasks)
    plan.apply(1)
    mixer = LossMixer(tasks, settings)
    optimizer = build_optimizer(model, mixer, settings)
    set_rates(optimizer, 1.0)
    model.train()
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()

    def work() -> int:
        prefix = plan.prefix(1) if cache else 0
        kept = PrefixCache(model, items, prefix, 2**30, Path(".")) if prefix else None
        tokens = 0
        for _ in range(epochs):
            for start in range(0, len(order), BATCH):
                batch = collate([items[i] for i in order[start : start + BATCH]], tasks)
                backward([batch], model, kept.hidden if kept else model, mixer, tasks, settings)
                nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], CLIP)
                optimizer.step()
                optimizer.zero_grad()
                tokens += batch.num_tokens
        return tokens

    return work


def train_transformers(data: str, count: int, padding: str) -> Work:
    """The step that people write with transformers' BertModel: linear heads on a masked mean and on first pieces.

    padding: "batch" (to the longest of each batch), "grouped" (that, with batches of similar lengths), or "50".
    """
    torch.manual_seed(0)
    _, tasks, items, _ = training_data(data, count)
    sentence, tokens_task = (next(t for t in tasks if t.kind == kind) for kind in ("sentence", "tokens"))
    model = TransformersJoint(find_model("minilm").path, len(sentence.labels), len(tokens_task.labels))
    optimizer = torch.optim.AdamW(model.groups(LR, HEAD_LR, 0.01), fused=True)
    model.train()
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    if padding == "grouped":
        order.sort(key=lambda i: len(items[i].parts[0].ids))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    if padding == "grouped":
        batches = [
            batches[i] for i in torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
        ]

    def work() -> int:
        count = 0
        for batch in batches:
            chosen = [items[i] for i in batch]
            input_ids, mask, tags = padded(chosen, tokens_task, 50 if padding == "50" else None)
            labels = torch.tensor([sentence.values(item)[0] for item in chosen])
            loss = model.loss(input_ids, mask, tags, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            count += int(mask.sum())
        return count

    return work


class TransformersJoint(nn.Module):
    """The joint model that people write: transformers' BertModel, linear heads on its masked mean and on its tokens."""

    def __init__(self, folder: Path, num_sentence_labels: int, num_token_labels: int) -> None:
        from transformers import AutoModel

        super().__init__()
        self.bert = AutoModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa")
        size, dropout = self.bert.config.hidden_size, self.bert.config.hidden_dropout_prob
        self.heads = nn.ModuleList([nn.Linear(size, num_sentence_labels), nn.Linear(size, num_token_labels)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.dropout(self.bert(input_ids=input_ids, attention_mask=mask).last_hidden_state)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return self.heads[0]((hidden * weights).sum(1) / weights.sum(1)), self.heads[1](hidden)

    def loss(self, input_ids: Tensor, mask: Tensor, tags: Tensor, labels: Tensor) -> Tensor:
        of_sentences, of_tokens = self(input_ids, mask)
        loss = F.cross_entropy(of_sentences, labels)
        return loss + F.cross_entropy(of_tokens.flatten(0, 1), tags.flatten(), ignore_index=-100)

    def groups(self, lr: float, head_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: no decay on biases and norms, by their names, as is usual there."""
        groups = []
        for part, rate in ((self.bert, lr), (self.heads, head_lr)):
            for free in (False, True):
                chosen = [p for n, p in part.named_parameters() if ("bias" in n or "LayerNorm" in n) == free]
                groups.append({"params": chosen, "lr": rate, "weight_decay": 0.0 if free else weight_decay})
        return groups


def padded(items: Sequence[Item], task: Task, length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and tags as rows of equal length, with -100 where there is no tag."""
    rows = [item.parts[0].ids[:length] for item in items]
    width = length or max(map(len, rows))
    input_ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    tags = torch.full((len(rows), width), -100)
    for i, (row, item) in enumerate(zip(rows, items, strict=True)):
        input_ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        for position, value in zip(first_pieces(item.parts[0]).values(), task.values(item), strict=True):
            if position < width:
                tags[i, position] = value
    return input_ids, mask, tags
