"""What the user names -> data sets whose labels are tasks, each with a train and a dev split."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from minibert.files import InputError, escaped
from train.data.examples import DataSet, Example, examples_of, fields_of
from train.data.read import name_of, read_source
from train.data.reading import Reading
from train.data.settle import check_fields, settle
from train.data.splits import cut_dev
from train.settings import Settings
from train.tasks import KINDS, Kinds, check_labels, classes_of, clean_labels, kind_of
from train.tasks.base import Task
from train.tasks.fields import (
    fields_for,
    labelled,
    learnable,
    name_fields,
    renamed,
    tell_labels,
    tell_unknown,
)


def load_data(
    settings: Settings, announce: Callable[[str], None] = print, kinds: Kinds = KINDS
) -> list[DataSet]:
    """The data of a run: whatever `read_source` reads, each with a train and a dev split, none of
    them empty; then the data that is only measured, with a dev split and an empty train split.

    Fields that are no tasks and rows without a label are left out. A missing dev split is cut from
    train. `announce` is told of all this, of what was read as what, and of the labels' counts.
    Raises InputError, naming file and line, for what cannot be read or makes no sense.
    """
    announce = telling(announce)
    reading = Reading.of(settings, announce)
    sources = (*settings.data, *settings.dev_data)
    sets = [_read(source, reading) for source in settings.data]
    sets += [_read_dev(source, reading) for source in settings.dev_data]
    check_fields(sets, reading)
    sets = settle(name_fields(sets, settings.share), reading)
    sets = [
        _cleaned(data, source, announce, kinds) for data, source in zip(sets, sources, strict=True)
    ]
    kind_by_name = _kinds_of(sets, kinds)
    names, left_out = learnable(sets, settings.tasks, kind_by_name)
    if left_out:
        listed = ", ".join(f"{name} ({reason})" for name, reason in left_out.items())
        is_possible = any(not reason.startswith("only") for reason in left_out.values())
        hint = "; --tasks NAME learns one" if is_possible else ""
        announce(f"left out, as no task: {listed}{hint}")
    result = []
    for data, source in zip(sets, sources, strict=True):
        kept = _with_labels(_without(data, left_out), names, source, announce)
        if any(kept.splits.values()):
            result.append(_with_dev(kept, source, settings.seed, names, kind_by_name, announce))
        elif not settings.tasks:
            announce(f"{source} is left out: it has no label of {', '.join(names)}")
    tell_labels(result, names, kind_by_name, announce)
    return result


def load_split(
    source: str,
    split: str,
    settings: Settings,
    tasks: Sequence[Task],
    announce: Callable[[str], None] = print,
    kinds: Kinds = KINDS,
    *,
    is_run: bool = True,
) -> list[Example]:
    """The examples of one split that have labels of some tasks, read by the settings of the run
    that trained them; a single file is its own split.

    is_run: False for a head that was learnt elsewhere, for which the data has another name. If the
    data has a single field, it is that.
    Labels that the tasks do not know count as errors, and `announce` is told. Raises InputError for
    data without any label of theirs, or with labels of another kind.
    """
    announce = telling(announce)
    reading = Reading.of(settings, announce)
    data = read_source(source, reading)
    is_file = Path(name_of(source)[1]).is_file()
    split = "train" if is_file else split
    if split not in data.splits:
        raise InputError(f"{source} has no {split} split; it has {', '.join(data.splits)}")
    data = replace(data, splits={split: data.splits[split]})
    names, fields = [task.name for task in tasks], fields_of(data)
    if not is_run and len(fields) == 1 and fields != names:
        announce(f"{source}: {fields[0]} is read as {names[0]}")
        data = renamed(data, {fields[0]: names[0]})
    data = fields_for(data, tasks, source)
    numbers = tuple(task.name for task in tasks if task.is_number)
    several = tuple((task.name, ()) for task in tasks if task.has_several)
    reading = replace(
        reading,
        score=(*reading.score, *numbers),
        multilabel=(*reading.multilabel, *several),
    )
    data = _cleaned(settle([data], reading)[0], f"{source}, {split}", announce, kinds)
    examples = labelled(data.splits[split], names)
    if not examples:
        has = f"; it has {', '.join(fields)}" if fields else ""
        raise InputError(f"{source} has no label of {', '.join(names)}{has}")
    _tell_unlabelled(len(data.splits[split]) - len(examples), source, split, announce)
    if not is_run:
        examples = [_with_numbers_named(example, tasks) for example in examples]
    check_labels(examples, tasks)
    for task in tasks:
        unknown = Counter(
            label for e in examples if task.name in e.labels for label in task.unknown(e)
        )
        tell_unknown(task.name, unknown, task.labels, source if is_file else split, announce)
    return examples


def _with_numbers_named(example: Example, tasks: Sequence[Task]) -> Example:
    """The example with LABEL_0 for 0 and so on, where a head's labels have no other names."""
    named = {task.name: f"LABEL_{example.labels.get(task.name)}" for task in tasks}
    known = {task.name: named[task.name] for task in tasks if named[task.name] in task.labels}
    return replace(example, labels={**example.labels, **known})


def telling(announce: Callable[[str], None]) -> Callable[[str], None]:
    """The same, but what was told is not told again, and names in it cannot control a terminal."""
    told: set[str] = set()

    def say(text: str) -> None:
        if text not in told:
            told.add(text)
            announce(escaped(text))

    return say


def _read(source: str, reading: Reading) -> DataSet:
    data = read_source(source, reading)
    for split, examples in data.splits.items():
        if not examples:
            raise InputError(f"--data {source}: its {split} split is empty")
    if "train" not in data.splits:
        raise InputError(f"--data {source}: no train split; it has {', '.join(data.splits)}")
    return data


def _read_dev(source: str, reading: Reading) -> DataSet:
    """What is measured of a data set, and not learnt: its dev split, or all of a single file."""
    data = read_source(source, reading)
    split = "train" if Path(name_of(source)[1]).is_file() else "dev"
    if not (examples := data.splits.get(split)):
        has = ", ".join(name for name, found in data.splits.items() if found)
        raise InputError(f"--dev-data {source}: no dev split; it has {has or 'nothing'}")
    reading.announce(f"{source}: its {len(examples)} {split} examples are measured, and not learnt")
    return replace(data, splits={"train": [], "dev": examples})


def _cleaned(data: DataSet, source: str, announce: Callable[[str], None], kinds: Kinds) -> DataSet:
    """A data set with every label as its kind means it, which all splits together tell."""
    examples = iter(clean_labels(list(examples_of(data)), source, announce, kinds))
    splits = {split: [next(examples) for _ in old] for split, old in data.splits.items()}
    return replace(data, splits=splits)


def _kinds_of(sets: Sequence[DataSet], kinds: Kinds) -> dict[str, type[Task]]:
    """The kind of each field that there is one for."""
    having: dict[str, list[Example]] = {}
    for example in examples_of(*sets):
        for name in example.labels:
            having.setdefault(name, []).append(example)
    found = {name: kind_of(name, examples, kinds) for name, examples in having.items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _without(data: DataSet, fields: Mapping[str, str]) -> DataSet:
    def changed(example: Example) -> Example:
        kept = {name: value for name, value in example.labels.items() if name not in fields}
        return replace(example, labels=kept)

    if not fields:
        return data
    splits = {split: [changed(e) for e in examples] for split, examples in data.splits.items()}
    return replace(data, splits=splits)


def _with_labels(
    data: DataSet, names: Sequence[str], source: str, announce: Callable[[str], None]
) -> DataSet:
    """A data set without the rows that have no label. A dev or test split of none is left out."""
    splits = {}
    for split, examples in data.splits.items():
        kept = labelled(examples, names)
        splits[split] = kept
        if any(name in e.labels for e in data.splits["train"] for name in names):
            _tell_unlabelled(len(examples) - len(kept), source, split, announce)
    return replace(data, splits={s: kept for s, kept in splits.items() if kept or s == "train"})


def _tell_unlabelled(count: int, source: str, split: str, announce: Callable[[str], None]) -> None:
    if count:
        have = "example has" if count == 1 else "examples have"
        are = "is" if count == 1 else "are"
        announce(f"{source}: {count} {split} {have} no label and {are} left out")


def _with_dev(
    data: DataSet,
    source: str,
    seed: int,
    names: Sequence[str],
    kinds: Mapping[str, type[Task]],
    announce: Callable[[str], None],
) -> DataSet:
    """A data set with a dev split, cut from train if it has none."""
    if "dev" in data.splits:
        return data
    whole = data.splits["train"]
    chosen = {name: kinds[name] for name in names if name in kinds}
    train, dev = cut_dev(whole, seed, partial(classes_of, kinds=chosen))
    if not dev:
        raise InputError(
            f"--data {source}: there is no dev split, and none can be cut from train: it has "
            f"{len(whole)} examples, and each of them is the last with one of its labels, or all "
            "have one text. Give more, or a dev split"
        )
    announce(
        f"{source}: no dev split, so {len(dev)} of the {len(whole)} train examples are cut off for "
        f"it (seed {seed})"
    )
    return replace(data, splits={**data.splits, "train": train, "dev": dev})
