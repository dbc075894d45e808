"""A task: its labels, its head, its loss and its metrics; and the model that all tasks share.

A kind of task is one class with the attributes and methods of `Task`. To add a kind, write its
class here and let `build_tasks` choose it by the labels that it is for; nothing else in the program
knows the kinds apart.

Shapes: B sentences, D hidden, C labels, K targets in a batch. `*` stands for the tokens, (N)
packed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.files import InputError
from minibert.heads import POOLINGS, SentenceHead, TokenHead, normalize, pool
from minibert.layout import Packed
from minibert.model import Bert, BertConfig
from train import metrics
from train.data import BIO, Batch, DataSet, Example, Item, Label
from train.settings import Settings, parse_number, parse_pairs


@dataclass(frozen=True)
class Prediction:
    """What a task says of one item: the label, the tags of its words, or a number; and how sure it
    is."""

    label: Label
    probability: float | tuple[float, ...] | None = None


class Task(Protocol):
    """What the program asks of every kind of task."""

    kind: str
    name: str
    labels: tuple[str, ...]
    main_metric: str  # the one of `measure` that the best epoch is chosen by
    shown_metrics: tuple[str, ...]  # those of `measure` that are printed
    uses_pooler: bool
    # the class of transformers that computes exactly these scores, if there is one
    transformers_class: str | None

    def build_head(self, config: BertConfig) -> nn.Module:
        """The parameters of this task alone."""

    def applies(self, item: Item) -> bool:
        """Whether an item has what this task looks at: a sentence, words, a pair."""

    def places(self, batch: Batch, i: int) -> Sequence[Any]:
        """Which of the scores belong to item i."""

    def values(self, item: Item) -> Sequence[Any]:
        """The targets at those places, as numbers."""

    def scores(self, model: "JointModel", hidden: Tensor, layout: Packed, places: Tensor) -> Tensor:
        """What the head says at the places: (*, D) -> (K, C), or (K) for a number."""

    def loss(self, scores: Tensor, values: Tensor) -> Tensor:
        """The losses at the places, summed: (K, C), (K) -> (). Summed, so that batches can be added
        up exactly."""

    def weight(self, values: Tensor) -> float:
        """What to divide that sum by: how many targets, each with its class's weight."""

    def decode(self, scores: Tensor, item: Item) -> Prediction:
        """One item's scores as a prediction."""

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """The metrics of predictions for items that have this task's label."""


class SentenceClassification:
    """One label for a sentence."""

    kind = "sentence"
    main_metric = "accuracy"
    shown_metrics: tuple[str, ...] = ("accuracy", "macro_f1")

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        pooling: str = "mean",
        class_weights: tuple[float, ...] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.name = name
        self.labels = labels
        self.pooling = pooling
        self.uses_pooler = pooling == "pooler"
        self.transformers_class = "BertForSequenceClassification" if self.uses_pooler else None
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    def build_head(self, config: BertConfig) -> nn.Module:
        return SentenceHead(config, len(self.labels), self.pooling)

    def applies(self, item: Item) -> bool:
        return True

    def places(self, batch: Batch, i: int) -> Sequence[Any]:
        return [batch.rows[i][0]]

    def values(self, item: Item) -> Sequence[Any]:
        return [self.labels.index(str(item.example.labels[self.name]))]

    def scores(self, model: "JointModel", hidden: Tensor, layout: Packed, places: Tensor) -> Tensor:
        return model.heads[self.name](hidden, layout, model.bert.pooler)[places]  # (*, D) -> (K, C)

    def loss(self, scores: Tensor, values: Tensor) -> Tensor:
        weights = (
            None if self.class_weights is None else scores.new_tensor(self.class_weights)
        )  # (C)
        return F.cross_entropy(
            scores, values, weights, label_smoothing=self.label_smoothing, reduction="sum"
        )

    def weight(self, values: Tensor) -> float:
        if self.class_weights is None:
            return float(values.numel())
        return float(torch.tensor(self.class_weights, dtype=torch.float64)[values.cpu()].sum())

    def decode(self, scores: Tensor, item: Item) -> Prediction:
        probabilities = scores[0].softmax(-1)  # (1, C) -> (C)
        best = int(probabilities.argmax())
        return Prediction(self.labels[best], float(probabilities[best]))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold = [str(item.example.labels[self.name]) for item in items]
        predicted = [str(prediction.label) for prediction in predictions]
        return {
            "accuracy": metrics.accuracy(gold, predicted),
            "macro_f1": metrics.macro_f1(gold, predicted),
            "macro_recall": metrics.macro_recall(gold, predicted),
        }


class TokenTagging:
    """A BIO tag for each word. A word's first piece is labelled and predicted; its other pieces
    carry no loss (Devlin et al. 2019, section 5.3). A word without a piece, or cut off, is
    predicted O, and counts as it is."""

    kind = "tokens"
    main_metric = "f1"
    shown_metrics: tuple[str, ...] = ("f1",)
    uses_pooler = False
    transformers_class: str | None = "BertForTokenClassification"

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self.labels = labels
        self.numbers = {label: number for number, label in enumerate(labels)}

    def build_head(self, config: BertConfig) -> nn.Module:
        return TokenHead(config, len(self.labels))

    def applies(self, item: Item) -> bool:
        return item.example.words is not None

    def places(self, batch: Batch, i: int) -> Sequence[Any]:
        start = batch.starts[batch.rows[i][0]]
        return [start + position for position in batch.items[i].parts[0].first_pieces.values()]

    def values(self, item: Item) -> Sequence[Any]:
        tags = item.example.labels[self.name]
        assert isinstance(tags, tuple)
        return [self.numbers[tags[word]] for word in item.parts[0].first_pieces]

    def scores(self, model: "JointModel", hidden: Tensor, layout: Packed, places: Tensor) -> Tensor:
        return model.heads[self.name](hidden[places])  # (*, D) -> (K, C)

    def loss(self, scores: Tensor, values: Tensor) -> Tensor:
        return F.cross_entropy(scores, values, reduction="sum")

    def weight(self, values: Tensor) -> float:
        return float(values.numel())

    def decode(self, scores: Tensor, item: Item) -> Prediction:
        words = item.example.words or ()
        tags, probabilities = ["O"] * len(words), [1.0] * len(words)
        best = scores.softmax(-1).max(-1)  # (K, C) -> (K)
        for word, label, probability in zip(
            item.parts[0].first_pieces, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            tags[word], probabilities[word] = self.labels[label], probability
        return Prediction(tuple(tags), tuple(probabilities))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold = [cast(tuple[str, ...], item.example.labels[self.name]) for item in items]
        predicted = [cast(tuple[str, ...], prediction.label) for prediction in predictions]
        precision, recall, f1 = metrics.entity_scores(gold, predicted)
        cut_off = 0
        for item, tags in zip(items, gold, strict=True):
            last = max((word for word in item.parts[0].words if word is not None), default=-1)
            if item.parts[0].lost:
                cut_off += sum(end > last + 1 for _, _, end in metrics.entities(tags))
        return {"f1": f1, "precision": precision, "recall": recall, "entities_cut_off": cut_off}


class SentenceRegression:
    """One number for a sentence, by squared error."""

    kind = "regression"
    main_metric = "spearman"
    shown_metrics: tuple[str, ...] = ("spearman",)
    labels: tuple[str, ...] = ()

    def __init__(self, name: str, pooling: str = "mean") -> None:
        self.name = name
        self.pooling = pooling
        self.uses_pooler = pooling == "pooler"
        self.transformers_class = "BertForSequenceClassification" if self.uses_pooler else None

    def build_head(self, config: BertConfig) -> nn.Module:
        return SentenceHead(config, 1, self.pooling)

    def applies(self, item: Item) -> bool:
        return True

    def places(self, batch: Batch, i: int) -> Sequence[Any]:
        return [batch.rows[i][0]]

    def values(self, item: Item) -> Sequence[Any]:
        return [float(item.example.labels[self.name])]  # type: ignore[arg-type]

    def scores(self, model: "JointModel", hidden: Tensor, layout: Packed, places: Tensor) -> Tensor:
        return model.heads[self.name](hidden, layout, model.bert.pooler)[places, 0]  # (*, D) -> (K)

    def loss(self, scores: Tensor, values: Tensor) -> Tensor:
        return F.mse_loss(scores.float(), values, reduction="sum")

    def weight(self, values: Tensor) -> float:
        return float(values.numel())

    def decode(self, scores: Tensor, item: Item) -> Prediction:
        return Prediction(float(scores[0]))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        gold = np.array([item.example.labels[self.name] for item in items], dtype=np.float64)
        predicted = np.array([prediction.label for prediction in predictions], dtype=np.float64)
        error = float(np.sqrt(np.mean((gold - predicted) ** 2))) if len(gold) else 0.0
        return {
            "spearman": metrics.spearman(gold, predicted),
            "pearson": metrics.pearson(gold, predicted),
            "root_mean_squared_error": error,
        }


class PairSimilarity(SentenceRegression):
    """One number for a pair of sentences: the cosine of their vectors, by squared error, without a
    head (Reimers and Gurevych 2019, section 3, "regression objective function"). Scores must lie in
    -1 to 1."""

    kind = "similarity"

    def build_head(self, config: BertConfig) -> nn.Module:
        return nn.Identity()

    def applies(self, item: Item) -> bool:
        return len(item.parts) == 2

    def places(self, batch: Batch, i: int) -> Sequence[Any]:
        return [batch.rows[i]]

    def scores(self, model: "JointModel", hidden: Tensor, layout: Packed, places: Tensor) -> Tensor:
        vectors = normalize(pool(hidden, layout, self.pooling))  # (*, D) -> (B, D)
        first, second = vectors[places[:, 0]], vectors[places[:, 1]]  # (B, D) -> (K, D)
        return (first * second).sum(-1)  # (K, D) -> (K)


class JointModel(nn.Module):
    """One encoder, and a head for each task."""

    def __init__(self, bert: Bert, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.bert = bert
        self.heads = nn.ModuleDict({task.name: task.build_head(bert.config) for task in tasks})
        if any(task.uses_pooler for task in tasks) and bert.pooler is None:
            raise InputError(
                "pooling by the pooler was asked for, and this model's files have none"
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
        """The last hidden state of a batch, (*, D): what every task's `scores` starts from."""
        return self.bert(batch.input_ids, layout=batch.layout)  # (*, D)


def build_tasks(sets: Sequence[DataSet], settings: Settings) -> list[Task]:
    """The tasks are the labels that the training data has; `settings.tasks` keeps some of them.

    Labels of one name are one task, whichever sources they are from: their values are taken
    together. Raises InputError, naming file and line, for a label in dev or test that train lacks,
    labels of mixed kinds, tags that are not BIO, or a name that no task can have.
    """
    found: dict[str, list[Example]] = {}
    for example in (example for data in sets for example in data.splits["train"]):
        for name in example.labels:
            found.setdefault(name, []).append(example)
    if missing := [name for name in settings.tasks if name not in found]:
        raise InputError(f"tasks = {', '.join(missing)}: the data's tasks are {', '.join(found)}")
    if not found:
        raise InputError("the training data has texts, but no labels")
    chosen = {
        name: examples
        for name, examples in found.items()
        if not settings.tasks or name in settings.tasks
    }
    pooling = _by_task(settings.pooling, list(found), "pooling")
    weighting = parse_pairs(settings.class_weights, "class_weights")
    if unknown := [name for name in weighting if name not in found]:
        raise InputError(
            f"class_weights: there is no task {unknown[0]!r}; the tasks are {', '.join(found)}"
        )
    tasks: list[Task] = []
    for name, examples in chosen.items():
        if "." in name or name == "frame" or hasattr(nn.ModuleDict(), name):
            raise InputError(
                f"a task cannot be named {name!r}: rename it in the data, or leave it out with --tasks"
            )
        values = [example.labels[name] for example in examples]
        kinds_of = [
            (type(example.labels[name]), example.second is not None) for example in examples
        ]
        if other := next((i for i, kind in enumerate(kinds_of) if kind != kinds_of[0]), 0):
            first, second = (f"{values[i]!r:.80} ({examples[i].where})" for i in (0, other))
            raise InputError(f"the task {name} has labels of several kinds: {first}, but {second}")
        kind, is_pair = kinds_of[0]
        if name in weighting and kind is not str:
            raise InputError(f"class_weights: the task {name} has no classes of sentences")
        if kind is tuple:
            types: set[str] = set()
            for example, tags in zip(examples, cast(list[tuple[str, ...]], values), strict=True):
                if wrong := [tag for tag in tags if not BIO.fullmatch(tag)]:
                    raise InputError(
                        f"{example.where}: the {name} tag {wrong[0]!r} is not BIO: O, B-type or I-type. Convert the "
                        "tags, or leave the task out with --tasks"
                    )
                types |= {tag[2:] for tag in tags if tag != "O"}
            tasks.append(
                TokenTagging(
                    name,
                    ("O", *(f"{prefix}-{type_}" for type_ in sorted(types) for prefix in "BI")),
                )
            )
        elif kind is float and is_pair:
            if not all(-1 <= float(value) <= 1 for value in values):  # type: ignore[arg-type]
                raise InputError(
                    f"the task {name} scores pairs, and a cosine lies in -1 to 1: scale its scores"
                )
            tasks.append(PairSimilarity(name, _pooling(pooling[name], name, allow_pooler=False)))
        elif kind is float:
            tasks.append(SentenceRegression(name, _pooling(pooling[name], name)))
        elif is_pair:
            raise InputError(
                f"the task {name} labels pairs with words; pairs can only have a score, a number in -1 to 1"
            )
        else:
            labels = tuple(sorted({str(value) for value in values}))
            counts = Counter(str(value) for value in values)
            weights = (
                class_weights(weighting[name], labels, counts, name) if name in weighting else None
            )
            tasks.append(
                SentenceClassification(
                    name, labels, _pooling(pooling[name], name), weights, settings.label_smoothing
                )
            )
    check_labels(
        [e for data in sets for split, es in data.splits.items() if split != "train" for e in es],
        tasks,
    )
    return tasks


def class_weights(
    text: str, labels: tuple[str, ...], counts: Mapping[str, int], name: str
) -> tuple[float, ...]:
    """The weight of each label in the loss: "auto" makes all labels count the same, n / (labels *
    count); or given as "anger:2;joy:1", 1 for what is left out."""
    if text == "auto":
        return tuple(sum(counts.values()) / (len(labels) * counts[label]) for label in labels)
    given = parse_pairs(text.replace(":", "=").replace(";", ","), f"class_weights of {name}")
    if unknown := [label for label in given if label not in labels]:
        raise InputError(
            f"class_weights: {name} has no label {unknown[0]!r}; it has {', '.join(labels)}"
        )
    return tuple(
        parse_number(given.get(label, "1"), f"class_weights of {name}") for label in labels
    )


def _by_task(text: str, names: Sequence[str], setting: str) -> dict[str, str]:
    """ "mean, emotion=cls" -> the word of each task."""
    parts = [part.strip() for part in text.split(",")]
    default, *more = [part for part in parts if "=" not in part] or ["mean"]
    if more:
        raise InputError(
            f"{setting} = {text!r}: both {default!r} and {more[0]!r} are for all tasks"
        )
    given = parse_pairs(",".join(part for part in parts if "=" in part), setting)
    if unknown := [name for name in given if name not in names]:
        raise InputError(
            f"{setting} = {text!r}: there is no task {unknown[0]!r}; the tasks are {', '.join(names)}"
        )
    return {name: given.get(name, default) for name in names}


def _pooling(word: str, name: str, allow_pooler: bool = True) -> str:
    allowed = (*POOLINGS, "pooler") if allow_pooler else POOLINGS
    if word not in allowed:
        raise InputError(f"pooling of {name}: {word!r} is not one of {', '.join(allowed)}")
    return word


def check_labels(examples: Iterable[Example], tasks: Sequence[Task]) -> None:
    """Raises InputError, naming file, line and value, for a label that the tasks cannot have been
    trained on."""
    known = {task.name: (task.kind, set(task.labels)) for task in tasks}
    for example in examples:
        for name, label in example.labels.items():
            if name not in known:
                continue
            kind, labels = known[name]
            is_pair = example.second is not None
            if (
                (kind == "tokens") != isinstance(label, tuple)
                or (not labels) != isinstance(label, float)
                or (kind == "similarity" and not is_pair)
                or (kind in ("sentence", "regression") and is_pair)
            ):
                of = "a pair" if is_pair else "a sentence"
                raise InputError(
                    f"{example.where}: {name} = {label!r:.80} of {of} is of another kind than in the training data"
                )
            unseen = [
                tag
                for tag in (label if isinstance(label, tuple) else (label,))
                if tag not in labels
            ]
            if labels and unseen:
                raise InputError(
                    f"{example.where}: the {name} label {unseen[0]!r} does not occur in the training data"
                )


def describe(task: Task) -> dict[str, Any]:
    """What a run's tasks.json keeps of a task: enough to predict with it."""
    return {
        key: getattr(task, key)
        for key in ("kind", "name", "labels", "pooling")
        if hasattr(task, key)
    }


def task_from(description: Mapping[str, Any]) -> Task:
    """The task that `describe` described. Raises ValueError for a kind that there is not."""
    kind, name, labels = description["kind"], description["name"], tuple(description["labels"])
    if kind == "sentence":
        return SentenceClassification(name, labels, description["pooling"])
    if kind == "tokens":
        return TokenTagging(name, labels)
    if kind == "regression":
        return SentenceRegression(name, description["pooling"])
    if kind == "similarity":
        return PairSimilarity(name, description["pooling"])
    raise ValueError(f"there is no kind of task {kind!r}")
