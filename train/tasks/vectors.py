"""What the tasks share that train the vectors of texts.

Shapes: B sequences of a batch, D hidden, K targets. `*` stands for the tokens, (N) packed.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.heads import POOLINGS, pool
from train.batches import Batch, Item
from train.model import JointModel
from train.parse import parse_whole
from train.settings import Settings
from train.tasks.records import Counterpart, Metric
from train.tasks.targets import SentenceTask, rectangular
from train.world import all_rows, share_of

# what `train.retrieval.measure_rankings` returns
OF_RANKINGS = (
    Metric("ndcg_at_10", is_shown=True),
    Metric("mrr_at_10", is_shown=True),
    Metric("recall_at_1", is_shown=True, is_percent=True),
    Metric("recall_at_5", is_percent=True),
    Metric("recall_at_10", is_percent=True),
)


class VectorTask(SentenceTask):
    """Texts that are read apart, and whose vectors are compared. The vectors are what the encoder
    learns to make of a text (Reimers and Gurevych 2019, section 3, arXiv:1908.10084).

    sizes: the loss is also that of the vectors cut off to so many numbers, so that the first
    numbers of a vector are a good vector too (Kusupati et al. 2022, section 3, arXiv:2205.13147).
    All sizes have the same weight, the full one included.
    """

    reads_pairs = True
    takes_windows = False
    poolings: ClassVar[tuple[str, ...]] = tuple(POOLINGS)
    trains_vectors = True
    sizes: tuple[int, ...] = ()

    @abstractmethod
    def compare(self, model: JointModel, vectors: Tensor, positions: Tensor) -> Tensor:
        """The logits at the positions, from the vectors of all texts of a batch: (B, D) -> (K, C),
        or (K) for numbers."""

    def configure(self, settings: Settings) -> None:
        super().configure(settings)
        self.sizes = parse_sizes(settings.matryoshka)

    def build_head(self, config: BertConfig) -> nn.Module:
        """Most kinds compare vectors without parameters. Raises InputError for a size over the
        encoder's."""
        if self.sizes and self.sizes[0] > config.hidden_size:
            raise InputError(
                f"matryoshka: {self.sizes[0]} is more than the {config.hidden_size} numbers of "
                "this model's vectors"
            )
        return nn.Identity()

    def add_targets(self, batch: Batch) -> None:
        """Where several processes share a batch, a loss that compares its items needs all of them:
        the targets of all shares, and positions among the vectors that `loss` gathers."""
        super().add_targets(batch)
        if batch.shares and self.compares_items:
            items = [item for share in batch.shares for item in self._labelled(share)]
            if items:
                numbers = count()
                places = [[next(numbers) for _ in item.parts_of[self.name]] for item in items]
                targets = [target for item in items for target in self.targets(item)]
                device = batch.input_ids.device
                batch.positions[self.name] = torch.tensor(rectangular(places), device=device)
                batch.targets[self.name] = torch.tensor(rectangular(targets), device=device)

    def loss(self, model: JointModel, states: Tensor, batch: Batch) -> Tensor:
        vectors = pool(states, batch.layout, self.pooling)  # (*, D) -> (B, D)
        if not (batch.shares and self.compares_items):
            return self._loss(model, vectors, batch)
        rows = [
            row
            for i, item in enumerate(batch.items)
            if self.name in item.example.labels
            for row in batch.rows_of(self.name, i)
        ]
        sizes = [
            sum(len(item.parts_of[self.name]) for item in self._labelled(share))
            for share in batch.shares
        ]
        gathered = torch.cat(all_rows(vectors[rows], sizes))  # of all processes
        return share_of(self._loss(model, gathered, batch), len(sizes))

    def _labelled(self, items: Sequence[Item]) -> list[Item]:
        return [item for item in items if self.name in item.example.labels]

    def _loss(self, model: JointModel, vectors: Tensor, batch: Batch) -> Tensor:
        """The loss of the vectors at the batch's positions, of all sizes: (B, D) -> ()."""
        positions, targets = batch.positions[self.name], batch.targets[self.name]
        full = vectors.size(1)
        losses = [
            self.criterion(self.compare(model, cut(vectors, size), positions), targets)
            for size in dict.fromkeys((full, *self.sizes))
        ]
        return torch.stack(losses).sum()

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        vectors = pool(states, batch.layout, self.pooling)  # (*, D) -> (B, D)
        return self.compare(model, vectors, positions)

    def counterpart(self) -> Counterpart | None:
        return None


def cut(vectors: Tensor, size: int) -> Tensor:
    """The vectors with zeros in place of all numbers but the first. A cosine, and the head on
    (u, v, |u - v|), see no difference to a shorter vector."""
    return F.pad(vectors[:, :size], (0, vectors.size(1) - size))  # (B, D) -> (B, D)


def parse_sizes(text: str) -> tuple[int, ...]:
    """ "128, 256" -> (256, 128). Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if odd := [part for part in parts if not parse_whole(part)]:
        raise InputError(
            f"matryoshka = {text!r}: {odd[0]!r} is no size of a vector; write whole numbers, such "
            'as "256, 128, 64"'
        )
    return tuple(sorted(map(int, parts), reverse=True))
