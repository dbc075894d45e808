"""What most kinds of tasks share: a loss that adds up over targets, and a vector for each text.

Shapes: B sequences of a batch, D hidden, C labels, K targets in a batch, P windows of the longest
text. `*` stands for the tokens, (N) packed.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from minibert.files import InputError
from minibert.heads import POOLINGS
from train.batches import Batch, Input, Item
from train.data.examples import Example
from train.model import JointModel
from train.parse import parse_by_task
from train.settings import Settings
from train.tasks.base import Task
from train.tasks.records import Prediction


class TargetTask(Task):
    """A kind whose loss is a sum over targets, which stand at positions of the batch: a sequence, a
    token, a pair."""

    @abstractmethod
    def targets(self, item: Item) -> Sequence[Any]:
        """An item's targets as numbers, one for each of its positions: None for a label that train
        lacks."""

    @abstractmethod
    def positions(self, batch: Batch, i: int) -> Sequence[Any]:
        """Where the targets and predictions of item i stand."""

    @abstractmethod
    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        """What the head says at the positions: (*, D) -> (K, C), or (K) for numbers."""

    @abstractmethod
    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The losses of the targets, summed: (K, C), (K) -> ()."""

    @abstractmethod
    def decode(self, logits: Tensor, item: Item) -> Prediction:
        """One item's logits as a prediction."""

    def add_targets(self, batch: Batch) -> None:
        labelled = [i for i, item in enumerate(batch.items) if self.name in item.example.labels]
        found = [
            (position, target)
            for i in labelled
            for position, target in zip(
                self.positions(batch, i), self.targets(batch.items[i]), strict=True
            )
            if target is not None
        ]
        if found:
            positions, targets = zip(*found, strict=True)
            device = batch.input_ids.device
            batch.positions[self.name] = torch.tensor(rectangular(positions), device=device)
            batch.targets[self.name] = torch.tensor(rectangular(targets), device=device)

    def loss(self, model: JointModel, states: Tensor, batch: Batch) -> Tensor:
        logits = self.logits(model, states, batch, batch.positions[self.name])
        return self.criterion(logits, batch.targets[self.name])

    def count(self, batch: Batch) -> float:
        """How many targets a batch has."""
        return float(len(batch.targets.get(self.name, ())))

    def predict(self, model: JointModel, states: Tensor, batch: Batch) -> dict[int, Prediction]:
        chosen = [i for i, item in enumerate(batch.items) if self.name in item.parts_of]
        if not chosen:
            return {}
        positions = [self.positions(batch, i) for i in chosen]
        flat = torch.tensor(rectangular([p for own in positions for p in own]), dtype=torch.long)
        logits = self.logits(model, states, batch, flat.to(states.device)).float().cpu()
        parts = logits.split([len(own) for own in positions])
        return {
            i: replace(
                self.decode(part, batch.items[i]),
                cut=max(tokens.lost for tokens in batch.items[i].tokens_of(self.name)),
            )
            for i, part in zip(chosen, parts, strict=True)
        }


class SentenceTask(TargetTask):
    """What the tasks share that look at one pooled vector of a text.

    pooling: one of `minibert.heads.POOLINGS`, or "pooler".
    """

    described: ClassVar = {**TargetTask.described, "pooling": str}
    poolings: ClassVar[tuple[str, ...]] = (*POOLINGS, "pooler")
    reads_both: bool = False  # a text or a pair, as an example has it; see `from_transformers`
    trains_vectors: ClassVar[bool] = False  # whether its pooled vectors are good sentence vectors

    def __init__(self, name: str, labels: tuple[str, ...] = (), pooling: str = "mean") -> None:
        super().__init__(name, labels)
        self.pool_by(pooling)

    def pool_by(self, pooling: str) -> None:
        """Pool in this way from now on. Raises InputError for a pooling that there is not."""
        if pooling not in self.poolings:
            raise InputError(
                f"pooling of {self.name}: {pooling!r} is not one of {', '.join(self.poolings)}"
            )
        self.pooling = pooling
        self.uses_pooler = pooling == "pooler"
        self.vector_pooling = pooling if self.trains_vectors else None

    @classmethod
    def pooling_of(cls, name: str, settings: Settings) -> str:
        """The pooling that the settings ask for."""
        default, given = parse_by_task(settings.pooling, "pooling")
        return given.get(name, default or "mean")

    def goes_on_from(self, other: Task, settings: Settings) -> bool:
        """A head learnt on vectors of one pooling, so the poolings must be the same."""
        if not super().goes_on_from(other, settings) or not isinstance(other, SentenceTask):
            return False
        default, given = parse_by_task(settings.pooling, "pooling")
        if not default and self.name not in given and other.pooling in self.poolings:
            self.pool_by(other.pooling)
        return self.pooling == other.pooling

    def check(self, example: Example) -> None:
        super().check(replace(example, second=None) if self.reads_both else example)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"pooling": self.pooling}

    def inputs(self, example: Example) -> tuple[Input, ...]:
        if self.reads_both and example.second is not None:
            return (Input(example.text, example.second, self.overlap),)
        return super().inputs(example)

    def positions(self, batch: Batch, i: int) -> Sequence[Any]:
        """One target, which stands at all windows of the text, or at both texts of a pair."""
        return [batch.rows_of(self.name, i)]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        """The mean of the windows' logits, in training as in prediction: (*, D) -> (K, C)."""
        logits = model.heads[self.name](states, batch.layout, model.bert.pooler)  # (B, C)
        is_there = (positions >= 0).unsqueeze(-1)  # (K, P) -> (K, P, 1)
        of_windows = logits[positions.clamp(min=0)] * is_there  # (B, C) -> (K, P, C)
        return of_windows.sum(1) / is_there.sum(1)  # (K, P, C) -> (K, C)


def rectangular(positions: Sequence[Any]) -> Sequence[Any]:
    """Positions or targets that are lists, all as long as the longest: what is missing is -1."""
    if not positions or isinstance(positions[0], int | float):
        return positions
    width = max(map(len, positions))
    return [[*own, *[-1] * (width - len(own))] for own in positions]
