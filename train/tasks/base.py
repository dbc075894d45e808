"""What the program asks of every kind of task, and what most kinds share.

A kind is a class derived from `Task`, in a file of its own, and one entry in a tuple of kinds. Most
derive from `TargetTask`, which knows how a loss adds up over targets. CONTRIBUTING.md shows a whole
one.

Shapes: B sequences of a batch, D hidden, C labels, K targets in a batch. `*` stands for the tokens,
(N) packed.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minibert.files import InputError
from minibert.heads import POOLINGS
from minibert.model import BertConfig
from train.batches import Batch, Input, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings, parse_by_task


@dataclass(frozen=True)
class Prediction:
    """What a task says of one item, and how sure it is."""

    label: Any
    probability: Any = None


@dataclass(frozen=True)
class Metric:
    """A number that a kind measures, and how it is shown."""

    name: str
    is_shown: bool = False  # in the run's output and tables
    is_percent: bool = False
    sign: int = 1  # -1 if lower is better

    def text(self, value: float) -> str:
        """The number as people read it."""
        return f"{value * 100:.2f}" if self.is_percent else f"{value:.4f}"


# Of the texts that have both tags and a class: the share in which all are right.
FRAME = Metric("frame", is_shown=True, is_percent=True)


@dataclass(frozen=True)
class Counterpart:
    """The class of `transformers` that computes a task's logits, and what its files say.

    The head's parameters must have the same names there ("classifier.weight").
    """

    architecture: str
    pipeline: str
    labels: tuple[str, ...]
    problem_type: str | None = None


class Task(ABC):
    """One task, and by its class the kind of it.

    Every kind must have the abstract methods; the others say what most kinds say.
    """

    kind: ClassVar[str]  # its word in tasks.json and in the output
    metrics: ClassVar[tuple[Metric, ...]]  # what `measure` returns; the first chooses the best step
    is_number: ClassVar[bool] = False  # labels are numbers, which no prediction hits exactly
    is_squared_error: ClassVar[bool] = False  # the loss; see train/mixing.py
    labels_words: ClassVar[bool] = False  # a label for each word
    reads_pairs: ClassVar[bool] = False  # of texts; in `train.predict` a tab separates them
    takes_class_weights: ClassVar[bool] = False  # whether `class_weights` may name it

    vector_pooling: str | None = None  # how what it trains as sentence vectors is pooled
    uses_pooler: bool = False  # BERT's own

    def __init__(self, name: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.labels = labels

    # From data to a task

    @classmethod
    @abstractmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        """Whether the field `name` of these examples, which all have it, is for this kind."""

    @classmethod
    @abstractmethod
    def from_examples(cls, name: str, examples: Sequence[Example], settings: Settings) -> "Task":
        """The task that some training examples make. Raises InputError, naming file and line, for
        what it cannot learn."""

    @classmethod
    def clean(cls, name: str, values: Sequence[Any]) -> tuple[Sequence[Any], str]:
        """A field's values as this kind means them, and what to tell the user of the change."""
        return values, ""

    @classmethod
    def classes(cls, value: Any) -> Collection[str]:
        """The classes that a label names. Each should have an example in train."""
        return ()

    def check(self, example: Example) -> None:
        """Raise InputError, naming file, line and value, for a label that training data of this
        task cannot have had."""
        if not self.fits(self.name, [example]):
            value = example.labels[self.name]
            of = "a sentence" if example.second is None else "a pair"
            raise InputError(
                f"{example.where}: {self.name} = {value!r:.80} of {of} is of another kind than in "
                "the training data"
            )

    def describe(self) -> dict[str, Any]:
        """What tasks.json keeps: enough to predict with the task."""
        return {"kind": self.kind, "name": self.name, "labels": self.labels}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Task":
        """The task that `describe` described."""
        return cls(description["name"], tuple(description["labels"]))

    def summary(self) -> str:
        """The task in a few words."""
        return f"{self.name} ({self.kind}, {len(self.labels) or 'no'} labels)"

    # What it reads and computes

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """The sequences that the task reads of an example, whether it has a label or not; none if
        the task has nothing to say of it."""
        return (Input(example.words or example.text),)

    @abstractmethod
    def build_head(self, config: BertConfig) -> nn.Module:
        """The parameters of this task alone."""

    @abstractmethod
    def add_targets(self, batch: Batch) -> None:
        """Put positions and targets into a batch, if it has some of this task.

        A kind that hides words from the encoder changes the batch's input_ids here.
        """

    @abstractmethod
    def loss(self, model: JointModel, states: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch that has targets: a sum, so that batches can be added up exactly."""

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """What to divide the loss by; 0 for a batch without targets."""

    @abstractmethod
    def predict(self, model: JointModel, states: Tensor, batch: Batch) -> dict[int, Prediction]:
        """What the task says of the batch's items, by their places in it."""

    # How predictions are measured and shown

    @abstractmethod
    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """The metrics of predictions for items that have this task's label."""

    def is_right(self, gold: Any, predicted: Any) -> bool:
        """Whether a predicted label is the right one."""
        return gold == predicted

    def readable(self, label: Any, example: Example) -> str:
        """A label for people."""
        return str(label)

    def as_record(self, prediction: Prediction, example: Example) -> Any:
        """A prediction as `train.predict --json` writes it."""
        return {"label": prediction.label, "probability": prediction.probability}

    def as_text(self, prediction: Prediction, example: Example) -> str:
        """A prediction as `train.predict` prints it."""
        return f"{prediction.label} ({prediction.probability:.2f})"

    def beside_gold(self, gold: Any, prediction: Prediction) -> dict[str, Any]:
        """What predictions.jsonl says of an item."""
        return {"gold": gold, "predicted": prediction.label}

    def counterpart(self) -> Counterpart | None:
        """The class of `transformers` that computes the same logits from the same weights, if there
        is one."""
        return None


class TargetTask(Task):
    """A kind whose loss is a sum over targets, which stand at positions of the batch: a sequence, a
    token, a pair."""

    @abstractmethod
    def targets(self, item: Item) -> Sequence[Any]:
        """An item's targets, as numbers."""

    @abstractmethod
    def positions(self, batch: Batch, i: int) -> Sequence[Any]:
        """Where the targets of item i stand."""

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
        positions = [p for i in labelled for p in self.positions(batch, i)]
        targets = [t for i in labelled for t in self.targets(batch.items[i])]
        if positions:
            device = batch.input_ids.device
            batch.positions[self.name] = torch.tensor(positions, device=device)
            batch.targets[self.name] = torch.tensor(targets, device=device)

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
        flat = torch.tensor([p for own in positions for p in own], dtype=torch.long)
        logits = self.logits(model, states, batch, flat.to(states.device)).float().cpu()
        parts = logits.split([len(own) for own in positions])
        return {i: self.decode(part, batch.items[i]) for i, part in zip(chosen, parts, strict=True)}


class SentenceTask(TargetTask):
    """What the tasks share that look at one pooled vector of a text.

    pooling: one of `minibert.heads.POOLINGS`, or "pooler".
    """

    poolings: ClassVar[tuple[str, ...]] = (*POOLINGS, "pooler")

    def __init__(self, name: str, labels: tuple[str, ...] = (), pooling: str = "mean") -> None:
        super().__init__(name, labels)
        self.pooling = pooling
        self.uses_pooler = pooling == "pooler"

    @classmethod
    def pooling_of(cls, name: str, settings: Settings) -> str:
        """The pooling that the settings ask for. Raises InputError for one that there is not."""
        default, given = parse_by_task(settings.pooling, "pooling")
        pooling = given.get(name, default or "mean")
        if pooling not in cls.poolings:
            raise InputError(
                f"pooling of {name}: {pooling!r} is not one of {', '.join(cls.poolings)}"
            )
        return pooling

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"pooling": self.pooling}

    def positions(self, batch: Batch, i: int) -> Sequence[Any]:
        return batch.rows_of(self.name, i)

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        head = model.heads[self.name]
        return head(states, batch.layout, model.bert.pooler)[positions]  # (*, D) -> (K, C)
