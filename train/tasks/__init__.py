"""The kinds of tasks, and the tasks that some data has.

A kind is one class in a file of this folder, and one entry in KINDS. A user's own kind can stand in
the user's own program: CONTRIBUTING.md shows how.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minibert.files import InputError, one_line
from minibert.tokenizer import Tokenizer
from train.data.examples import DataSet, Example, examples_by_label
from train.model import Heads
from train.parse import parse_by_task, parse_pairs
from train.settings import Settings
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.contrastive import Contrastive
from train.tasks.masked_words import MaskedWords
from train.tasks.multilabel import MultilabelClassification
from train.tasks.multiple_choice import MultipleChoice
from train.tasks.next_sentence import NextSentence
from train.tasks.pairs import PairClassification, PairClassificationApart, PairRegression
from train.tasks.question_answering import QuestionAnswering
from train.tasks.records import FRAME, Metric, Prediction
from train.tasks.regression import SentenceRegression
from train.tasks.retrieval import Retrieval
from train.tasks.simcse import SimCSE
from train.tasks.similarity import PairOrder, PairSimilarity
from train.tasks.tagging import TokenTagging
from train.tasks.targets import TargetTask
from train.tasks.text import TextTask
from train.tasks.words import WordTagging
from train.typed import misfit

__all__ = ["FRAME", "KINDS", "Kinds", "Metric", "Prediction", "TargetTask", "Task"]

LONGEST_NAME = 200  # bytes of a task's name
MOST_LABELS = 100_000

Kinds = Sequence[type[Task]]
# The first that fits a field, and is wanted for it, has it.
KINDS: Kinds = (
    TokenTagging,
    WordTagging,
    QuestionAnswering,
    MultipleChoice,
    Retrieval,
    Contrastive,
    PairOrder,
    PairSimilarity,
    PairRegression,
    SentenceRegression,
    PairClassification,
    PairClassificationApart,
    MultilabelClassification,
    SentenceClassification,
    MaskedWords,
    NextSentence,
    SimCSE,
)


def kind_of(name: str, examples: Sequence[Example], kinds: Kinds) -> type[Task] | None:
    """The kind that a field of some examples is for, if there is one."""
    return next((kind for kind in kinds if kind.fits(name, examples)), None)


def clean_labels(
    examples: Sequence[Example], source: str, announce: Callable[[str], None], kinds: Kinds = KINDS
) -> list[Example]:
    """The examples with every label as its kind means it; `announce` is told what was changed."""
    result = list(examples)
    having_each: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        for name in example.labels:
            having_each.setdefault(name, []).append(i)
    for name, having in having_each.items():
        kind = kind_of(name, [examples[i] for i in having], kinds)
        if kind is None:
            continue
        values, told = kind.clean(name, [examples[i].labels[name] for i in having])
        for i, value in zip(having, values, strict=True):
            if value != examples[i].labels[name]:
                result[i] = replace(result[i], labels={**result[i].labels, name: value})
        if told:
            announce(f"{source}: {told}")
    return result


def classes_of(example: Example, kinds: Mapping[str, type[Task]]) -> set[tuple[str, str]]:
    """The classes that an example's labels name, each with its field's name. kinds: each field's,
    of the fields that count."""
    return {
        (name, found)
        for name, kind in kinds.items()
        if name in example.labels
        for found in kind.classes(example.labels[name])
    }


def build_tasks(sets: Sequence[DataSet], settings: Settings, kinds: Kinds = KINDS) -> list[Task]:
    """The tasks are the labels that the training data has, and those of data that is only measured;
    `settings.tasks` keeps some of them. Without data there are none.

    Labels of one name are one task, whichever sources they are from: their values are taken
    together. Raises InputError, naming file and line, for labels of mixed kinds, what a kind cannot
    learn, or a name that no task can have.
    """
    found = examples_by_label(sets)
    if missing := [name for name in settings.tasks if name not in found]:
        raise InputError(
            f"tasks = {', '.join(missing)}: the data's tasks are {', '.join(found) or 'none'}"
            + ("; what text teaches is chosen by --objectives" if settings.text else "")
        )
    if sets and not found:
        raise InputError("the training data has texts, but no labels")
    kind_by_name: dict[str, type[Task]] = {}
    heads: set[str] = set()
    for name, examples in found.items():
        if settings.tasks and name not in settings.tasks:
            continue
        head = name.replace(".", ":")  # as in Heads
        if not may_be_name(name) or name in objectives_of(settings) or head in heads:
            raise InputError(
                f"a task cannot be named {name!r:.200}: rename it in the data, or leave it out "
                "with --tasks"
            )
        heads.add(head)
        wanted = [kind for kind in kinds if kind.is_wanted(name, settings)]
        kind = kind_of(name, examples, wanted)
        if kind is None:
            raise _no_kind(name, examples, kinds)
        kind_by_name[name] = kind
    _check_names_in(settings, found, kind_by_name)
    tasks = [kind.from_examples(name, found[name], settings) for name, kind in kind_by_name.items()]
    learnt = learnt_names(sets)
    for task in tasks:
        if len(task.labels) > MOST_LABELS:
            raise InputError(
                f"{task.name} has {len(task.labels):,} labels, and a task at most "
                f"{MOST_LABELS:,}: is it a text? Leave it out with --tasks"
            )
        task.configure(settings)
        if task.name not in learnt:
            task.vector_pooling = None  # nothing trains its vectors
    others = (split for data in sets for name, split in data.splits.items() if name != "train")
    check_labels((example for split in others for example in split), tasks)
    return tasks


def may_be_name(name: str) -> bool:
    """Whether a task can have a name: one that a line and a folder's name have room for, without
    control characters. A head is an attribute of a module, and cannot have the name of another."""
    return (
        0 < len(name.encode()) <= LONGEST_NAME
        and one_line(name) == name == name.strip()
        and name != FRAME.name
        and not hasattr(Heads({}), name)
    )


def build_text_tasks(
    settings: Settings, tokenizer: Tokenizer, kinds: Kinds = KINDS
) -> list[TextTask]:
    """The tasks that `settings.objectives` names, which plain text makes; none without text.
    Raises InputError for a word that is no kind's, for objectives that read differently, and for
    settings that are of labelled data alone."""
    by_word = {kind.objective: kind for kind in kinds if issubclass(kind, TextTask)}
    words = objectives_of(settings)
    if words and settings.compare_single:
        raise InputError(
            "compare_single = true trains each task of labelled data alone; leave it out, or text"
        )
    for word in words:
        if word not in by_word:
            raise InputError(
                f"objectives = {settings.objectives!r}: {word!r} is not one of {', '.join(by_word)}"
            )
        if settings.overfit_batch and not by_word[word].can_memorise:
            raise InputError(
                f"overfit_batch: {word} has no labels, so nothing tells whether it memorises a "
                "batch; leave overfit_batch out"
            )
    if any(by_word[word].text_form == "twice" for word in words) and len(words) > 1:
        raise InputError(
            f"objectives = {settings.objectives!r}: these read a text in different ways; learn one "
            "of them at a time"
        )
    return [by_word[word].from_text(settings, tokenizer) for word in words]


def objectives_of(settings: Settings) -> list[str]:
    """The names of the tasks that plain text makes; none without text."""
    words = [word.strip() for word in settings.objectives.split(",")]
    return list(dict.fromkeys(words)) if settings.text else []


def _check_names_in(
    settings: Settings, names: Collection[str], kinds: Mapping[str, type[Task]]
) -> None:
    """Raise InputError for a setting that names a task which the data lacks, or whose kind has no
    such setting."""
    known = ", ".join(names) or "none"
    for name in parse_by_task(settings.pooling, "pooling")[1]:
        if name not in (*names, *objectives_of(settings)):
            raise InputError(
                f"pooling = {settings.pooling!r}: there is no task {name!r}; the tasks are {known}"
            )
    for name in parse_by_task(settings.pairs, "pairs")[1]:
        if name not in names:
            raise InputError(
                f"pairs = {settings.pairs!r}: there is no task {name!r}; the tasks are {known}"
            )
        if name in kinds and not kinds[name].reads_pairs:
            raise InputError(f"pairs = {settings.pairs!r}: the task {name} has single texts")
    for name in parse_pairs(settings.class_weights, "class_weights"):
        if name not in names:
            raise InputError(f"class_weights: there is no task {name!r}; the tasks are {known}")
        if name in kinds and not kinds[name].takes_class_weights:
            raise InputError(f"class_weights: the task {name} has no classes of sentences")


def _no_kind(name: str, examples: Sequence[Example], kinds: Kinds) -> InputError:
    """Why no kind is for a field: its examples are of several kinds, or of none."""

    def shown(example: Example) -> str:
        return f"{example.labels[name]!r:.80} ({example.where})"

    first = kind_of(name, examples[:1], kinds)
    for example in examples:
        if kind_of(name, [example], kinds) is not first:
            return InputError(
                f"the task {name} has labels of several kinds: {shown(examples[0])}, but "
                f"{shown(example)}"
            )
    of = "a text" if examples[0].second is None else "a pair"
    return InputError(f"the task {name}: no kind of task learns {shown(examples[0])} of {of}")


def learnt_names(sets: Sequence[DataSet]) -> set[str]:
    """The names of the labels that training examples have. Other tasks are only measured."""
    return {name for data in sets for e in data.splits["train"] for name in e.labels}


def check_labels(examples: Iterable[Example], tasks: Sequence[Task]) -> None:
    """Raise InputError, naming file, line and value, for a label of another kind than the tasks
    were trained on. A label of the same kind that train lacked passes, and counts as an error."""
    for example in examples:
        for task in tasks:
            if task.name in example.labels:
                task.check(example)


def task_from(description: Mapping[str, Any], kinds: Kinds = KINDS) -> Task:
    """The task that `Task.describe` described. Raises ValueError for a kind that there is not, and
    for what no task of its kind is."""
    for kind in kinds:
        if kind.kind == description["kind"]:
            for key, wanted in kind.described.items():
                if key in description and (found := misfit(description[key], wanted, key)):
                    raise InputError(found)
            if not may_be_name(description["name"]):
                raise InputError(f"no task can be named {description['name']!r:.80}")
            task = kind.from_description(description)
            task.overlap = description.get("overlap")
            if task.overlap is not None and task.overlap < 1:
                raise InputError(f"overlap = {task.overlap} must be at least 1")
            return task
    raise ValueError(f"there is no kind of task {description['kind']!r}")
