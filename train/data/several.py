"""Several labels of a text as columns of 0 and 1."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from minibert.files import InputError
from train.data.examples import DataSet, Example, examples_of, mapped
from train.data.reading import Reading

ONES, ZEROS = {"1", "1.0", "true"}, {"0", "0.0", "false"}


def join_columns(data: DataSet, reading: Reading) -> DataSet:
    """A data set with the columns of 0 and 1 that the user calls one task. A row without all of
    them has no label. Raises InputError, naming file and line, for another value, and if some of
    the columns are missing."""
    for task, columns in reading.multilabel:
        if columns:
            found = {name for example in examples_of(data) for name in example.labels}
            missing = [column for column in columns if column not in found]
            if missing and len(missing) < len(columns):
                raise InputError(
                    f"multilabel = {task}: {data.name} has no column {missing[0]!r}; it has "
                    f"{', '.join(sorted(found))}"
                )
            if not missing:
                data = mapped(data, partial(_with_joined, task=task, columns=columns))
                found = {c for e in data.splits.get("train", ()) for c in e.labels.get(task, ())}
                tell_never([c for c in columns if c not in found], task, data, reading)
    return data


def tell_never(never: Sequence[str], task: str, data: DataSet, reading: Reading) -> None:
    if never:
        reading.announce(
            f"{task}: no training example of {data.name} has {', '.join(never)}, which therefore "
            "cannot be learnt"
        )


def _with_joined(example: Example, task: str, columns: Sequence[str]) -> Example:
    values = {column: example.labels.get(column) for column in columns}
    labels = {name: value for name, value in example.labels.items() if name not in columns}
    for column, value in values.items():
        if value is not None and str(value).lower() not in ONES | ZEROS:
            raise InputError(
                f"{example.where}: {column} = {value!r} must be 0 or 1, as {task} is made of it"
            )
    if None not in values.values():
        labels[task] = frozenset(c for c, value in values.items() if str(value).lower() in ONES)
    return replace(example, labels=labels)
