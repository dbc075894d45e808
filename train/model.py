"""The model that all tasks share: one encoder, and a head for each task.

Shapes: D hidden. `*` stands for the tokens of a batch, (N) packed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.fast import change_classes, speed_up
from minibert.fast.dropout import FastDropout
from minibert.files import InputError
from minibert.formats.families import FAMILIES
from minibert.model import Bert
from train.batches import Batch

Forward = Callable[[Batch], Tensor]  # a batch -> its last hidden state, (*, D)


class HasHead(Protocol):
    """What the model asks of a task."""

    name: str
    uses_pooler: bool
    uses_token_types: bool
    pretraining_part: ClassVar[str]

    def build_head(self, config: BertConfig) -> nn.Module:
        """The parameters of this task alone."""


class Heads(nn.Module):
    """A head for each task, by the tasks' names.

    A module's name cannot have a dot, which stands in the names of tasks of several data sets
    ("reviews.label"): parameters are named with a colon there ("reviews:label.classifier.weight").
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = tuple(heads)
        for name, head in heads.items():
            self.add_module(name.replace(".", ":"), head)

    def __getitem__(self, name: str) -> nn.Module:
        return self.get_submodule(name.replace(".", ":"))

    def items(self) -> list[tuple[str, nn.Module]]:
        """Each task's name and its head."""
        return [(name, self[name]) for name in self.names]


class JointModel(nn.Module):
    """One encoder, and a head for each task. Raises InputError if a task needs a pooler, token
    types or a head of pre-training, and the encoder's family has none."""

    def __init__(self, bert: Bert, tasks: Sequence[HasHead]) -> None:
        super().__init__()
        self.bert = bert
        self.heads = Heads({task.name: task.build_head(bert.config) for task in tasks})
        by_pooler = [task.name for task in tasks if task.uses_pooler]
        if by_pooler and bert.pooler is None:
            raise InputError(
                f"the task {by_pooler[0]} reads BERT's pooler, and this model's files have none"
            )
        family = FAMILIES[bert.config.model_type]
        for task in tasks:
            if task.pretraining_part and not family.has(task.pretraining_part):
                raise InputError(
                    f"the task {task.name} trains a head that no {bert.config.model_type} has"
                )
        in_pairs = [task.name for task in tasks if task.uses_token_types]
        if in_pairs and family.has_pair_types and bert.config.type_vocab_size < 2:
            raise InputError(
                f"the task {in_pairs[0]} reads two texts in one sequence, and this model has no "
                "token type for the second"
            )

    def units(self) -> dict[str, nn.Module]:
        """The parts that learn or are frozen together, from the bottom up: embeddings, layers,
        pooler, heads."""
        parts: dict[str, nn.Module] = {"embeddings": self.bert.embeddings}
        parts |= {f"layers.{i}": layer for i, layer in enumerate(self.bert.layers)}
        if self.bert.pooler is not None:
            parts["pooler"] = self.bert.pooler
        return parts | {f"head.{name}": head for name, head in self.heads.items()}

    def train(self, mode: bool = True) -> "JointModel":
        """Dropout on, but not in what is frozen: its output is then a function of its input
        alone."""
        super().train(mode)
        for unit in self.units().values():
            unit.train(mode and any(parameter.requires_grad for parameter in unit.parameters()))
        return self

    def forward(self, batch: Batch) -> Tensor:
        """The last hidden state of a batch, (*, D): what every task's head starts from."""
        return self.bert(
            batch.input_ids, token_type_ids=batch.token_type_ids, layout=batch.layout
        )  # (*, D)


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Replace every dropout of the model, also that of the attention probabilities."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def make_fast(model: JointModel) -> None:
    """Give a model the fast parts of minibert/fast; the heads are too small for fast products."""
    speed_up(model.bert)
    change_classes(model.heads, {nn.Dropout: FastDropout})
