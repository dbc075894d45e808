"""The joint model that people write with transformers: what ours is measured and timed beside.

It shares with ours the token ids, the targets, and how logits become predictions. All that learns
is its own: texts are padded to the longest of a batch, `transformers.BertModel` encodes them, each
task has a linear layer, and losses are those of torch.nn.

Shapes: R sequences of a batch, S tokens of the longest, D hidden, C labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.files import InputError
from train.batches import Item
from train.model import Heads, set_dropout
from train.tasks.base import Task
from train.tasks.multilabel import MultilabelClassification
from train.tasks.question_answering import QuestionAnswering
from train.tasks.records import Prediction
from train.tasks.regression import SentenceRegression
from train.tasks.targets import SentenceTask
from train.tasks.words import WordTagging

IGNORED = -100


@dataclass(frozen=True)
class Rows:
    """Some items as rows of equal length, (R, S) each; first: the first row of each item."""

    items: Sequence[Item]
    input_ids: Tensor
    mask: Tensor
    token_type_ids: Tensor
    first: list[int]

    def of(self, task: Task, i: int) -> list[int]:
        """The rows that a task reads of item i."""
        return [self.first[i] + part for part in self.items[i].parts_of[task.name]]


def padded(items: Sequence[Item], device: str = "cpu", length: int | None = None) -> Rows:
    """Rows as long as the longest, or of a given length."""
    sequences = [part for item in items for part in item.parts]
    width = length or max(len(part.ids) for part in sequences)
    input_ids, mask, types = (
        torch.zeros(len(sequences), width, dtype=torch.int64) for _ in range(3)
    )
    for row, part in enumerate(sequences):
        count = min(len(part.ids), width)
        input_ids[row, :count] = torch.tensor(part.ids[:count])
        types[row, :count] = torch.tensor(part.type_ids[:count])
        mask[row, :count] = 1
    first = [0, *accumulate(len(item.parts) for item in items)][:-1]
    return Rows(items, input_ids.to(device), mask.to(device), types.to(device), first)


class Head(nn.Module, ABC):
    """What people put on BertModel for one task: a linear layer, and a loss of torch.nn."""

    def __init__(self, task: Task, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.task = task
        self.linear = nn.Linear(hidden_size, num_labels)

    def labelled(self, rows: Rows) -> list[int]:
        """Which items have a label of the task."""
        return [i for i, item in enumerate(rows.items) if self.task.name in item.example.labels]

    @abstractmethod
    def loss(self, hidden: Tensor, rows: Rows) -> Tensor:
        """The mean loss of a batch from its dropped-out hidden states, (R, S, D)."""

    @abstractmethod
    def predict(self, hidden: Tensor, rows: Rows) -> dict[int, Prediction]:
        """What our own task makes of these logits, by the number of the item."""


class SequenceHead(Head):
    """On the mean over a sequence's real tokens: classes, several labels, or a number."""

    def logits(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Of the labelled items."""
        weights = rows.mask.unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * weights).sum(1) / weights.sum(1)
        chosen = [rows.of(self.task, i)[0] for i in self.labelled(rows)]
        return self.linear(vectors[chosen])

    def loss(self, hidden: Tensor, rows: Rows) -> Tensor:
        task = self.task
        assert isinstance(task, SentenceTask)
        targets = torch.tensor([task.targets(rows.items[i])[0] for i in self.labelled(rows)])
        logits, targets = self.logits(hidden, rows), targets.to(hidden.device)
        if isinstance(task, SentenceRegression):
            return nn.MSELoss()(logits[:, 0], targets)
        if isinstance(task, MultilabelClassification):
            return nn.BCEWithLogitsLoss()(logits, targets)
        return nn.CrossEntropyLoss()(logits, targets)

    def predict(self, hidden: Tensor, rows: Rows) -> dict[int, Prediction]:
        task = self.task
        assert isinstance(task, SentenceTask)
        logits = self.logits(hidden, rows).float().cpu()
        if isinstance(task, SentenceRegression):
            logits = logits[:, 0]
        return {
            i: task.decode(own[None], rows.items[i])
            for i, own in zip(self.labelled(rows), logits, strict=True)
        }


class TokenHead(Head):
    """On the first piece of each word: a tag."""

    def loss(self, hidden: Tensor, rows: Rows) -> Tensor:
        task = self.task
        assert isinstance(task, WordTagging)
        targets = torch.full_like(rows.input_ids, IGNORED)
        for i in self.labelled(rows):
            item = rows.items[i]
            (row,) = rows.of(task, i)
            pieces = task.first_pieces(item).values()
            for (_, position), target in zip(pieces, task.targets(item), strict=True):
                if target is not None and position < targets.size(1):
                    targets[row, position] = target
        criterion = nn.CrossEntropyLoss(ignore_index=IGNORED)
        return criterion(self.linear(hidden).flatten(0, 1), targets.flatten())

    def predict(self, hidden: Tensor, rows: Rows) -> dict[int, Prediction]:
        task = self.task
        assert isinstance(task, WordTagging)
        logits = self.linear(hidden).float().cpu()
        result = {}
        for i in self.labelled(rows):
            (row,) = rows.of(task, i)
            positions = [position for _, position in task.first_pieces(rows.items[i]).values()]
            result[i] = task.decode(logits[row, positions], rows.items[i])
        return result


class SpanHead(Head):
    """On every token: a logit to begin an answer, and one to end it."""

    def logits(self, hidden: Tensor, rows: Rows) -> Tensor:
        is_padding = (rows.mask == 0).unsqueeze(-1)
        return self.linear(hidden).masked_fill(is_padding, float("-inf"))

    def loss(self, hidden: Tensor, rows: Rows) -> Tensor:
        assert isinstance(self.task, QuestionAnswering)
        labelled = self.labelled(rows)
        spans = [span for i in labelled for span in self.task.targets(rows.items[i])]
        windows = [row for i in labelled for row in rows.of(self.task, i)]
        start, end = self.logits(hidden, rows)[windows].unbind(-1)
        first, last = torch.tensor(spans, device=hidden.device).unbind(-1)
        criterion = nn.CrossEntropyLoss()
        return (criterion(start, first) + criterion(end, last)) / 2

    def predict(self, hidden: Tensor, rows: Rows) -> dict[int, Prediction]:
        assert isinstance(self.task, QuestionAnswering)
        logits = self.logits(hidden, rows).float().cpu()
        return {
            i: self.task.decode(logits[rows.of(self.task, i)], rows.items[i])
            for i in self.labelled(rows)
        }


def head_for(task: Task, hidden_size: int) -> Head:
    """The head that people write for a task. Raises InputError for a task that none is here for."""
    if isinstance(task, QuestionAnswering):
        return SpanHead(task, hidden_size, 2)
    if task.overlap is not None:
        raise InputError(f"the plain loop cuts texts off, and {task.name} reads them in windows")
    if isinstance(task, SentenceTask) and task.pooling != "mean":
        raise InputError(
            f"the plain loop pools by the mean, and {task.name} pools by {task.pooling}"
        )
    if isinstance(task, WordTagging):
        return TokenHead(task, hidden_size, len(task.labels))
    if isinstance(task, SentenceRegression) and task.kind != "similarity":
        return SequenceHead(task, hidden_size, 1)
    if task.kind in ("sentence", "pair", "multilabel"):
        return SequenceHead(task, hidden_size, len(task.labels))
    raise InputError(f"there is no plain loop for {task.summary()}")


class TransformersJoint(nn.Module):
    """transformers' BertModel, dropout, and a head for each task.

    dropout: in place of the model's own. weights: a factor for each task's loss; all 1 if absent.
    """

    def __init__(
        self,
        folder: Path,
        tasks: Sequence[Task],
        dropout: float | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        from transformers import AutoModel

        super().__init__()
        self.bert = AutoModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="sdpa"
        )
        config = self.bert.config
        self.heads = Heads({t.name: head_for(t, config.hidden_size) for t in tasks})
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.weights = weights or {task.name: 1.0 for task in tasks}
        if dropout is not None:
            set_dropout(self, dropout)

    def hidden(self, rows: Rows) -> Tensor:
        """The hidden states of a batch, (R, S, D), after dropout."""
        encoded = self.bert(
            input_ids=rows.input_ids,
            attention_mask=rows.mask,
            token_type_ids=rows.token_type_ids,
        )
        return self.dropout(encoded.last_hidden_state)

    def loss(self, rows: Rows) -> Tensor:
        """The weighted sum of the mean losses of the tasks that the batch has labels of."""
        hidden = self.hidden(rows)
        losses = [
            self.weights[name] * head.loss(hidden, rows)
            for name, head in self._heads()
            if head.labelled(rows)
        ]
        return torch.stack(losses).sum()

    def predict(self, rows: Rows) -> list[dict[str, Prediction]]:
        """Each task's prediction of each item that has its label."""
        hidden = self.hidden(rows)
        by_task = {name: head.predict(hidden, rows) for name, head in self._heads()}
        return [
            {name: own[i] for name, own in by_task.items() if i in own}
            for i in range(len(rows.items))
        ]

    def _heads(self) -> list[tuple[str, Head]]:
        return [(name, head) for name, head in self.heads.items() if isinstance(head, Head)]

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
