"""What only a whole field tells: whether its numbers are classes or scores, and what its lists are.

A field's values are looked at in all splits, and in all data sets that share the task. Whole
numbers are the names of classes, as 0 and 1 mostly are. If at least one number has a decimal point,
all are scores.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from minibert.files import InputError
from train.data.columns import MOST, as_tags
from train.data.examples import DataSet, Example, examples_of, fields_of, mapped
from train.data.reading import Reading
from train.data.several import tell_never
from train.data.spans import locate, span_tags
from train.data.words import WORD
from train.parse import parse_whole

# Fields whose numbers a file of names is about, if there are several fields of numbers.
NAMED = ("label", "labels", "tags", "ner_tags")

NUMBER = re.compile(r"[-+]?[0-9]+([.,][0-9]+)?")  # a score that is written as a text

Convert = Callable[[Any, Example], Any]  # a value as it was read -> the label


def settle(sets: Sequence[DataSet], reading: Reading) -> list[DataSet]:
    """The data sets with every value as the label that it is.

    Spans become BIO tags, and lists of names several labels of a text. Raises InputError, naming
    file and line, for spans that are not of their text, and for a value that is not what the user
    says of the field.
    """
    sets = [_with_names(data, reading) for data in sets]
    values: dict[str, list[Any]] = {}
    for example in examples_of(*sets):
        for name, value in example.labels.items():
            values.setdefault(name, []).append(value)
    meanings = {name: _meaning(name, found, reading) for name, found in values.items()}
    return [mapped(data, partial(_settled, meanings=meanings)) for data in sets]


def is_named(field: str, names: Sequence[str]) -> bool:
    """Whether the user names a field: "label", or "reviews.label" where data sets have a task
    each."""
    return field in names or field.rpartition(".")[2] in names


def check_fields(sets: Sequence[DataSet], reading: Reading) -> None:
    """Raise InputError for a setting that names no field of the data."""
    fields = fields_of(*sets)
    dotted = [f"{data.name}.{name}" for data in sets for name in fields]
    several = tuple(name for name, _ in reading.multilabel)
    for name, column in reading.columns:
        if column not in reading.seen:
            raise InputError(
                f"columns: {name}={column}: no row has a value in such a column; the labels are "
                f"{', '.join(fields) or 'none'}"
            )
    for setting, names in (
        ("classes", reading.classes),
        ("score", reading.score),
        ("multilabel", several),
    ):
        for name in names:
            if name not in (*fields, *dotted):
                raise InputError(
                    f"{setting} = {name}: the data has no such field; it has "
                    f"{', '.join(fields) or 'none'}"
                )


def _settled(example: Example, meanings: Mapping[str, Convert | None]) -> Example:
    labels = dict(example.labels)
    words = example.words
    for name, value in example.labels.items():
        convert = meanings[name]
        if convert is not None:
            labels[name] = convert(value, example)
        elif isinstance(value, list):
            if example.words is None:
                places = [match.span() for match in WORD.finditer(example.text)]
            else:
                places = locate(example.words, example.text, example.where)
            words = tuple(example.text[start:end] for start, end in places)
            labels[name] = span_tags(example.text, places, value, example.where, name)
    return replace(example, labels=labels, words=words)


def _meaning(name: str, values: Sequence[Any], reading: Reading) -> Convert | None:
    """How a field's values become labels; None for those that are labels already, and for spans."""
    lists = [value for value in values if isinstance(value, list)]
    if is_named(name, tuple(several for several, _ in reading.multilabel)):
        return partial(_several, name=name)
    if is_named(name, reading.classes):
        return partial(_one_class, name=name)
    if is_named(name, reading.score):
        return partial(_said_score, name=name)
    if any(isinstance(value, tuple) for value in values):  # an empty list lacks its tags
        return partial(_tags, name=name)
    if any(lists) and not any(isinstance(one, list) for value in lists for one in value):
        if all(isinstance(value, str | int | float) or len(value) == 1 for value in values):
            reading.announce(
                f"{name}: lists of one name each, read as its class; if a text may have several, "
                f"say --multilabel {name}"
            )
            return partial(_one_class, name=name)
        reading.announce(f"{name}: lists of names, so a text may have several of these labels")
        return partial(_several, name=name)
    numbers = [value for value in values if isinstance(value, int | float)]
    if any(isinstance(value, float) for value in numbers):
        return partial(_score, name=name)
    if numbers:
        return partial(_one_class, name=name)
    return None


def _one_class(value: Any, example: Example, name: str) -> Any:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list | frozenset):
        raise InputError(f"{example.where}: {name} = {value!r:.80} is not one class")
    return value if isinstance(value, tuple) else str(value)


def _score(value: Any, example: Example, name: str) -> Any:
    """Numbers as floats; what is no number stays, and no kind of task will learn both."""
    return float(value) if isinstance(value, int | float) else value


def _said_score(value: Any, example: Example, name: str) -> float:
    """A number, which may be written as a text, also with a comma: "0,5"."""
    is_written = isinstance(value, str) and NUMBER.fullmatch(value)
    number = float(value.replace(",", ".")) if is_written else value
    if not isinstance(number, int | float) or not abs(number) < MOST:
        raise InputError(
            f"{example.where}: {name} = {value!r:.80} is no finite number, as a score must be"
        )
    return float(number)


def _tags(value: Any, example: Example, name: str) -> Any:
    if isinstance(value, list):
        return as_tags(value, example.words, example.where, name)
    return value


def _several(value: Any, example: Example, name: str) -> frozenset[str]:
    """Several labels of a text: a list of names, or a cell "a; b"."""
    if isinstance(value, str):
        value = _in_cell(value)
    if not isinstance(value, list | tuple | frozenset):
        value = [value]
    if any(isinstance(one, list | float) for one in value):
        raise InputError(f"{example.where}: {name} = {value!r:.80} is no list of names")
    return frozenset(str(one).strip() for one in value) - {""}


def _in_cell(cell: str) -> list[str]:
    """The names in "a; b" or "a, b"."""
    return [part.strip() for part in cell.replace(";", ",").split(",") if part.strip()]


def _with_names(data: DataSet, reading: Reading) -> DataSet:
    """Numbers as the names that a file beside the data gives them, lists of 0 and 1 as the names of
    the ones, and the numbers of words' tags as tags."""
    fields: dict[str, list[tuple[Any, Example]]] = {}
    for example in examples_of(data):
        for name, value in example.labels.items():
            fields.setdefault(name, []).append((value, example))
    several = tuple(name for name, _ in reading.multilabel)
    changes: dict[str, Callable[[Any], Any]] = {}
    numbered = {
        name: flat
        for name, found in fields.items()
        if (flat := _whole_numbers([v for v, _ in found], is_named(name, several))) is not None
    }
    for name, numbers in numbered.items():
        values = [value for value, _ in fields[name]]
        width = _indicator_width(values)
        is_about = len(numbered) == 1 or is_named(name, NAMED)
        names = data.label_names if is_about else ()
        known = names if names and min(numbers) >= 0 and max(numbers) < len(names) else ()
        of_words = [example for value, example in fields[name] if _counts_words(value, example)]
        if of_words and len(of_words) == len(values):
            if not known:
                raise InputError(
                    f"{of_words[0].where}: {name} holds the numbers of tags, and what they mean is "
                    "not said: write names (O, B-type, I-type), or put the names into labels.txt "
                    "beside the data, one a line, the first for 0"
                )
            changes[name] = partial(_named_tags, names=known)
        elif width:
            known = known if len(known) == width else ()
            own = known or tuple(map(str, range(width)))
            changes[name] = partial(_named_ones, names=own)
            in_train = [e.labels[name] for e in data.splits.get("train", ()) if name in e.labels]
            never = [one for i, one in enumerate(own) if not any(v[i] for v in in_train)]
            tell_never(never, name, data, reading)
        elif known:
            changes[name] = partial(_named, names=known)
        if known:
            reading.announce(f"{data.name}: a file beside the data names the numbers of {name}")
    if not changes:
        return data

    def changed(example: Example) -> Example:
        labels = {
            name: changes[name](value) if name in changes else value
            for name, value in example.labels.items()
        }
        return replace(example, labels=labels)

    return mapped(data, changed)


def _counts_words(value: Any, example: Example) -> bool:
    return isinstance(value, list) and len(value) == len(example.words or ())


def _named_tags(value: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[i] for i in value)


def _named_ones(value: Sequence[int], names: Sequence[str]) -> list[str]:
    return [names[i] for i, one in enumerate(value) if one]


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, str):
        value = [int(one) for one in _in_cell(value)]
    return [names[i] for i in value] if isinstance(value, list) else names[value]


def _whole_numbers(values: Sequence[Any], is_several: bool) -> list[int] | None:
    """All numbers of a field that holds whole numbers, lists of them, or (if it is said to have
    several) cells of them; None for any other."""
    numbers: list[int] = []
    for value in values:
        if is_several and isinstance(value, str):
            parts = _in_cell(value)
            value = [parse_whole(part) for part in parts]
        found = value if isinstance(value, list) else [value]
        if not all(type(one) is int for one in found):
            return None
        numbers += found
    return numbers or None


def _indicator_width(values: Sequence[Any]) -> int:
    """How long the lists of a field are, if all are as long and hold 0 and 1 alone; else 0."""
    widths = {len(value) if isinstance(value, list) else 0 for value in values}
    width = widths.pop()
    if widths or width < 2 or not all(set(value) <= {0, 1} for value in values):
        return 0
    return width
