"""What the program asks of every kind of task.

A kind is a class derived from `Task`, in a file of its own, and one entry in a tuple of kinds. Most
derive from `TargetTask` of targets.py, which knows how a loss adds up over targets. CONTRIBUTING.md
shows a whole one.

Shapes: D hidden. `*` stands for the tokens, (N) packed.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.files import InputError
from train.batches import Batch, Input, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.tasks.records import Counterpart, Mark, Metric, Prediction


class Task(ABC):
    """One task, and by its class the kind of it.

    Every kind must have the abstract methods; the others say what most kinds say.
    """

    kind: ClassVar[str]  # its word in tasks.json and in the output
    metrics: ClassVar[tuple[Metric, ...]]  # what `measure` returns; the first chooses the best step
    is_number: ClassVar[bool] = False  # labels are numbers, which no prediction hits exactly
    is_squared_error: ClassVar[bool] = False  # the loss; see train/mixing.py
    has_several: ClassVar[bool] = False  # a label is several names, or none
    labels_words: ClassVar[bool] = False  # a label for each word
    reads_pairs: ClassVar[bool] = False  # of texts; in `train.predict` a tab separates them
    takes_class_weights: ClassVar[bool] = False  # whether `class_weights` may name it
    takes_windows: ClassVar[bool] = False  # whether it can read a long text in windows
    # whether batches of labelled data may have no text twice: the loss takes others' texts as wrong
    keeps_texts_apart: ClassVar[bool] = False
    # whether the loss of a batch is no sum over its items: it compares them with one another
    compares_items: ClassVar[bool] = False
    hides_words: ClassVar[bool] = False  # whether it changes a batch's input_ids
    objective: ClassVar[str] = ""  # its word in `settings.objectives`; see text.py
    pretraining_part: ClassVar[str] = ""  # the part of BertForPreTraining that its head is
    # what `describe` tells, with the types: tasks.json may have been changed
    described: ClassVar[Mapping[str, Any]] = {
        "name": str,
        "labels": list[str],
        "overlap": int | None,
    }
    instead: ClassVar[str] = ""  # of a kind that reads no text to predict on: what does so

    overlap: int | None = None  # of the windows in which it reads long texts; None: they are cut
    vector_pooling: str | None = None  # how what it trains as sentence vectors is pooled
    uses_pooler: bool = False  # BERT's own
    uses_token_types: bool = False  # whether a sequence can have two texts, of different types

    def __init__(self, name: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.labels = labels

    def configure(self, settings: Settings) -> None:
        """Take from the settings what the examples do not tell."""
        if self.takes_windows and settings.stride:
            self.overlap = settings.stride

    # From data to a task

    @classmethod
    @abstractmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        """Whether the field `name` of these examples, which all have it, is for this kind."""

    @classmethod
    def is_wanted(cls, name: str, settings: Settings) -> bool:
        """Whether the settings let this kind have a field that it fits."""
        return True

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

    def unknown(self, example: Example) -> Collection[str]:
        """The labels of an example that the training data lacked. They count as errors, and have no
        target."""
        found = self.classes(example.labels[self.name])
        return [label for label in found if self.labels and label not in self.labels]

    def describe(self) -> dict[str, Any]:
        """What tasks.json keeps: enough to predict with the task."""
        return {
            "kind": self.kind,
            "name": self.name,
            "labels": self.labels,
            "overlap": self.overlap,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Task":
        """The task that `describe` described."""
        return cls(description["name"], tuple(description["labels"]))

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "Task | None":
        """The task that a head of `transformers` is for; None if it is of another kind.

        labels: those of id2label, in order. config: the rest of config.json; its "activation_fn" is
        that of a CrossEncoder's files, if there is one. The files do not say whether a head reads
        one text or two, so the task reads an example as it is.
        """
        return None

    def goes_on_from(self, other: "Task", settings: Settings) -> bool:
        """Whether the head of another task can give this one its first weights.

        If so, what the settings leave open becomes as it is there: how to pool, say.
        """
        known = set(self.labels) & set(other.labels)
        return isinstance(self, type(other)) and (bool(known) or not self.labels)

    def summary(self) -> str:
        """The task in a few words."""
        return f"{self.name} ({self.kind}, {len(self.labels) or 'no'} labels)"

    # What it reads and computes

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """What the task reads of an example, whether it has a label or not; nothing if the task has
        nothing to say of it."""
        return (Input(example.words or example.text, overlap=self.overlap),)

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

    def are_right(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Sequence[bool]:
        """Which predictions are right. Of some kinds, only all items together tell."""
        return [
            self.is_right(item.example.labels[self.name], found.label)
            for item, found in zip(items, predictions, strict=True)
        ]

    def error(self, gold: Any, prediction: Prediction) -> float:
        """How wrong a prediction is: 0 if it is right, and the more, the worse. The report's worst
        mistakes are the highest."""
        return 0.0 if self.is_right(gold, prediction.label) else 1.0

    def per_label(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Mapping[str, Mapping[str, float]]:
        """Each label's figures, as "precision", "recall", "f1" and "support" (how many items or
        entities have it); empty for a kind without labels."""
        return {}

    def confusions(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> list[tuple[str, str]]:
        """Each gold class with the one predicted in its place; empty for a kind in which an item
        has no class, or can have several."""
        return []

    def confidences(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> list[tuple[float, bool]]:
        """How sure each prediction was, 0 to 1, and whether it was right: what calibration is
        measured on. Empty for a kind without probabilities."""
        return [
            (found.probability, self.is_right(item.example.labels[self.name], found.label))
            for item, found in zip(items, predictions, strict=True)
            if found.probability is not None
        ]

    def tune(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Prediction]:
        """Choose on dev what is not learnt, such as thresholds. Returns the predictions as they are
        with what was chosen. items: those that have this task's label, with their predictions."""
        return predictions

    def readable(self, label: Any, example: Example) -> str:
        """A label for people."""
        return str(label)

    def marks(self, label: Any, example: Example) -> tuple[str, Sequence[Mark]] | None:
        """One of the example's texts, with the parts of it that a label names; None for a kind
        whose labels name no parts."""
        return None

    def as_record(self, prediction: Prediction, example: Example) -> Any:
        """A prediction as `train.predict --json` writes it."""
        record = {"label": prediction.label, "probability": prediction.probability}
        return record if prediction.scores is None else record | {"scores": prediction.scores}

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

    def export(self, head: nn.Module) -> dict[str, Tensor]:
        """The head's parameters as that class has them, by its names."""
        return dict(head.named_parameters())

    def import_head(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The head's parameters from those of that class: what `export` did, undone."""
        return dict(tensors)
