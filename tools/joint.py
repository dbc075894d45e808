"""The joint model that people write with transformers: what ours is measured and timed beside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.batches import Item
from train.tasks.targets import TargetTask


class TransformersJoint(nn.Module):
    """The joint model that people write: transformers' BertModel, linear heads on its masked mean
    and on its tokens."""

    def __init__(self, folder: Path, num_sentence_labels: int, num_token_labels: int) -> None:
        from transformers import AutoModel

        super().__init__()
        self.bert = AutoModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="sdpa"
        )
        size, dropout = self.bert.config.hidden_size, self.bert.config.hidden_dropout_prob
        self.heads = nn.ModuleList(
            [nn.Linear(size, num_sentence_labels), nn.Linear(size, num_token_labels)]
        )
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
        """Parameter groups for AdamW: no decay on biases and norms, by their names, as is usual
        there."""
        groups = []
        for part, rate in ((self.bert, lr), (self.heads, head_lr)):
            for free in (False, True):
                chosen = [
                    p
                    for n, p in part.named_parameters()
                    if ("bias" in n or "LayerNorm" in n) == free
                ]
                groups.append(
                    {"params": chosen, "lr": rate, "weight_decay": 0.0 if free else weight_decay}
                )
        return groups


def padded(
    items: Sequence[Item], task: TargetTask, length: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and tags as rows of equal length, with -100 where there is no tag."""
    tokens = [item.tokens_of(task.name)[0] for item in items]
    rows = [one.ids[:length] for one in tokens]
    width = length or max(map(len, rows))
    input_ids, mask = (
        torch.zeros(len(rows), width, dtype=torch.int64),
        torch.zeros(len(rows), width, dtype=torch.int64),
    )
    tags = torch.full((len(rows), width), -100)
    for i, (row, one, item) in enumerate(zip(rows, tokens, items, strict=True)):
        input_ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        for position, target in zip(one.first_pieces.values(), task.targets(item), strict=True):
            if position < width:
                tags[i, position] = target
    return input_ids, mask, tags
