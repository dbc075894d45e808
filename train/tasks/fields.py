"""Which fields of the data are tasks, and what the user is told of them."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minibert.files import InputError, one_line
from train.data.examples import (
    Answers,
    DataSet,
    Example,
    Negatives,
    examples_by_label,
    fields_of,
    mapped,
)
from train.tasks.base import Task

# "id", "tweet_id", "pair ID", "promptID", "Unnamed: 0"
ID = re.compile(
    r"(?i:id|idx|index|guid|uid|uuid|qid[12]?)|.*[_ -](?i:id|idx|uuid)|.+[a-z]ID|Unnamed: \d+"
)
MOST_TASKS = 1000
FEW_ROWS = 10  # with fewer, all labels may well be different
MANY = 8  # labels of a task; of more, only the commonest are told
SHOWN = 3
SPLIT_NAMES = {"train", "dev", "val", "valid", "validation", "trial", "test"}
BLANKS = {"nan", "na", "n/a", "null", "none", "?"}


def learnable(
    sets: Sequence[DataSet], wanted: Collection[str], kinds: Mapping[str, type[Task]]
) -> tuple[list[str], dict[str, str]]:
    """The fields to learn, and why each other field is left out.

    wanted: what the user asks for; if nothing, all fields but names of rows, fields with nearly as
    many classes as rows, and fields with one value. kinds: each field's. Raises InputError if
    nothing is left, or if a wanted field has one value.
    """
    having = examples_by_label(sets)
    reasons = {name: _why_not(name, found, kinds.get(name)) for name, found in having.items()}
    num_tasks = len(wanted) or sum(not reason for reason in reasons.values())
    if num_tasks > MOST_TASKS:
        raise InputError(
            f"the data has {num_tasks:,} fields that could be tasks, and a run learns at most "
            f"{MOST_TASKS:,}: name some of them, --tasks NAME"
        )
    if wanted:
        for name in wanted:
            if name not in having:
                raise InputError(
                    f"tasks = {name}: the data's tasks are {', '.join(having) or 'none'}"
                )
            if reasons[name].startswith("only"):
                raise InputError(f"{name}: there is nothing to learn: {reasons[name]}")
        return list(wanted), {}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    if having and len(left_out) == len(having):
        listed = ", ".join(f"{name} ({reason})" for name, reason in left_out.items())
        raise InputError(f"the data has nothing to learn: {listed}")
    return [name for name in having if name not in left_out], left_out


def _why_not(name: str, examples: Sequence[Example], kind: type[Task] | None) -> str:
    """Why a field is no task, if it is none."""
    values = [example.labels[name] for example in examples]
    # The first choice, the answer at a position, and what has no negatives are other texts in each
    # example.
    if any(e.choices or isinstance(e.labels[name], Answers | Negatives) for e in examples):
        return ""
    if ID.fullmatch(name.rpartition(".")[2]):
        return "names of rows"
    found = {
        one
        for value in values
        for one in (value if isinstance(value, tuple) else (_hashable(value),))
    }
    if len(found) == 1:
        (only,) = found
        return f"only {_shown(only)!r}"
    if len(found) > 1 and {str(one).casefold() for one in found} <= SPLIT_NAMES:
        return "names of splits"
    is_class = kind is not None and all(value in kind.classes(value) for value in values)
    if is_class and len(values) >= FEW_ROWS and len(found) > len(values) / 2:
        return f"{len(found)} different values in {len(values)} rows"
    return ""


def _hashable(value: Any) -> Hashable:
    """A value, or what stands for it: a field of mixed kinds may hold lists."""
    return repr(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return ", ".join(sorted(value)) or "none" if isinstance(value, frozenset) else str(value)


def name_fields(sets: Sequence[DataSet], share: Collection[str]) -> list[DataSet]:
    """Fields of one name in several data sets as a task each, DATA.FIELD, unless they are shared.
    Raises InputError for two data sets that have both the same name."""
    fields = [fields_of(data) for data in sets]
    counts = Counter(name for found in fields for name in found)
    if missing := [name for name in share if name not in counts]:
        raise InputError(
            f"share = {missing[0]}: the data has no such label; it has {', '.join(counts)}"
        )
    result = []
    taken: set[str] = set()
    for data, found in zip(sets, fields, strict=True):
        own = {name: f"{data.name}.{name}" for name in found if counts[name] > 1}
        own = {name: dotted for name, dotted in own.items() if name not in share}
        if twice := taken & set(own.values()):
            raise InputError(
                f"two data sets are called {data.name}, and both have the label "
                f"{sorted(twice)[0].rpartition('.')[2]}: give them names, --data NAME=PATH, or "
                "make it one task, --share LABEL"
            )
        taken |= set(own.values())
        result.append(renamed(data, own))
    return result


def fields_for(data: DataSet, tasks: Sequence[Task], source: str) -> DataSet:
    """A data set with those fields alone that are labels of the tasks, and named so: reviews.label
    for the field label of reviews. Raises InputError if it could be one of several tasks."""
    names = [task.name for task in tasks]
    own = {}
    for field in fields_of(data):
        dotted = [name for name in names if name.rpartition(".")[2] == field]
        if field in names:
            own[field] = field
        elif f"{data.name}.{field}" in names:
            own[field] = f"{data.name}.{field}"
        elif len(dotted) == 1:
            own[field] = dotted[0]
        elif dotted:
            raise InputError(
                f"{source}: is its {field} that of {' or '.join(dotted)}? Say which: --data "
                f"{dotted[0].rpartition('.')[0]}={source}"
            )
    return renamed(data, own)


def renamed(data: DataSet, names: Mapping[str, str]) -> DataSet:
    """A data set whose fields have other names; those without one keep theirs."""

    def changed(example: Example) -> Example:
        labels = {names.get(name, name): value for name, value in example.labels.items()}
        return replace(example, labels=labels)

    return mapped(data, changed)


def tell_labels(
    sets: Sequence[DataSet],
    names: Sequence[str],
    kinds: Mapping[str, type[Task]],
    announce: Callable[[str], None],
) -> None:
    """Tell how many examples of each split have each label, what may be no label at all, what train
    lacks, and how many texts of dev and test also stand in train."""
    splits = {
        split: [example for data in sets for example in data.splits.get(split, ())]
        for split in ("train", "dev", "test")
    }
    for name in (name for name in names if name in kinds):
        found = {
            split: [e.labels[name] for e in examples if name in e.labels]
            for split, examples in splits.items()
        }
        kind = kinds[name]
        counts = {
            split: Counter(c for value in values for c in kind.classes(value))
            for split, values in found.items()
        }
        parts = [f"{s} {_counted(counts[s], values)}" for s, values in found.items() if values]
        known = found["train"] or found["dev"]  # of what is only measured
        note = _note(name, known, is_class=bool(counts["train"]))
        announce(f"{name}{note}: {'; '.join(parts)}")
        for blank in sorted(c for c in counts["train"] if str(c).casefold() in BLANKS):
            announce(
                f"{name}: {counts['train'][blank]} train examples have the label {blank!r}, which "
                "is learnt like any other; if it means that there is none, leave it empty"
            )
        for split in ("dev", "test"):
            tell_unknown(name, counts[split], counts["train"], split, announce)
    train = {example.content for example in splits["train"]}
    for split in ("dev", "test"):
        if copies := sum(example.content in train for example in splits[split]):
            announce(f"{copies} of the {len(splits[split])} {split} texts also stand in train")


def tell_unknown(
    name: str,
    counts: Mapping[str, int],
    known: Collection[str],
    split: str,
    announce: Callable[[str], None],
) -> None:
    """Tell which labels of a split the training data lacks."""
    if counts and known and (unknown := {c: n for c, n in counts.items() if c not in known}):
        announce(
            f"{name}: {sum(unknown.values())} labels of {split} are not in train, and count as "
            f"errors: {_listed(Counter(unknown))}"
        )


def _note(name: str, values: Sequence[Any], is_class: bool) -> str:
    """How numbers are read."""
    if all(isinstance(value, float) for value in values):
        if all(value.is_integer() for value in values):
            return f" (scores, though all are whole; --classes {name} would make them classes)"
        return " (scores)"
    if is_class and all(
        isinstance(value, str) and re.fullmatch("-?[0-9]+", value) for value in values
    ):
        return f" (numbers, read as classes; --score {name} would make them scores)"
    return ""


def _counted(counts: Counter[str], values: Sequence[Any]) -> str:
    if counts:
        return _listed(counts)
    if all(isinstance(value, tuple) for value in values):
        return "none"  # tags that are all O
    if all(isinstance(value, float) for value in values):
        return f"{len(values)} from {min(values):g} to {max(values):g}"
    return str(len(values))


def _listed(counts: Counter[str]) -> str:
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    few = shown if len(shown) <= MANY else shown[:SHOWN]
    more = len(shown) - len(few)
    listed = ", ".join(f"{one_line(label)} {count}" for label, count in few)
    return f"{listed} and {more} more labels" if more else listed


def labelled(examples: Iterable[Example], names: Collection[str]) -> list[Example]:
    """The examples that have a label of one of these names."""
    return [example for example in examples if any(name in example.labels for name in names)]
