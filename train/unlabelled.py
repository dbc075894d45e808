"""What train.predict reads: texts, pairs, questions and JSON lines, as examples without labels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minibert.files import InputError, check_finite
from train.data.columns import NEEDED, from_fields, inputs_of
from train.data.examples import Example
from train.data.jsonl import parse_object
from train.data.reading import Reading
from train.data.words import split_text
from train.tasks.base import Task


@dataclass(frozen=True)
class Unlabelled:
    """An example without labels, and the fields with which its record begins."""

    example: Example
    fields: Mapping[str, Any]


def from_lines(
    lines: Iterable[str],
    splitting: str,
    tasks: Sequence[Task],
    choices: Sequence[str] = (),
    place: str = "text",
) -> Iterator[Unlabelled]:
    """Texts, each with the same choices, if there are any. Where a task reads pairs, a tab
    separates the two texts.

    splitting: how texts are split into words for a task that labels words. place: what the number
    of a text is put after in messages. Raises InputError, naming the text's number, for a blank
    one, and for one that no task reads.
    """
    reads_pairs = any(task.reads_pairs for task in tasks)
    for i, line in enumerate(lines, start=1):
        text, tab, second = line.partition("\t") if reads_pairs else (line, "", "")
        if not text.strip() or (tab and not second.strip()):
            raise InputError(f"{place} {i} is blank")
        given = Example(
            text,
            {},
            f"{place} {i}",
            second=second if tab else None,
            choices=tuple(choices) or None,
        )
        example = _ready(given, splitting, tasks)
        if choices:
            _check_is_read(example, replace(example, choices=None), "choices", tasks)
        yield Unlabelled(example, as_given(example))


def from_pairs(
    pairs: Iterable[Sequence[str]], splitting: str, tasks: Sequence[Task]
) -> Iterator[Unlabelled]:
    """Pairs of texts, such as questions with the texts that answer them. Raises InputError as
    `from_lines`."""
    for i, (text, second) in enumerate(pairs, start=1):
        if not text.strip() or not second.strip():
            raise InputError(f"pair {i}: a text of it is blank")
        example = _ready(Example(text, {}, f"pair {i}", second=second), splitting, tasks)
        _check_is_read(example, replace(example, second=None), "a second text", tasks)
        yield Unlabelled(example, as_given(example))


def from_json_lines(
    lines: Iterable[str],
    source: str,
    splitting: str,
    tasks: Sequence[Task],
    columns: Sequence[tuple[str, str]] = (),
) -> Iterator[Unlabelled]:
    """Objects with the fields that training data has; labels and unknown fields are not looked at.
    Blank lines are left out.

    columns: as in `Reading`; a line may have our names too. Raises InputError, naming the line, as
    `from_lines`.
    """
    for i, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{source}, line {i}"
            fields = parse_object(line, where)
            check_finite(fields, where)
            own = tuple((ours, theirs) for ours, theirs in columns if theirs in fields)
            given = inputs_of(fields, own)
            if not given.keys() - {"id"}:
                has = ", ".join(fields) or "nothing"
                raise InputError(f"{where}: needs {NEEDED}; it has {has}")
            example = from_fields(given, where, Reading(columns=own))
            yield Unlabelled(_ready(example, splitting, tasks), fields)


def as_given(example: Example) -> dict[str, Any]:
    """What was given of a text, as JSON holds it."""
    fields = {"text": example.text, "second": example.second, "choices": example.choices}
    return {name: value for name, value in fields.items() if value is not None}


def _ready(example: Example, splitting: str, tasks: Sequence[Task]) -> Example:
    """The example with its words, if a task labels words. Raises InputError if no task reads it."""
    if example.words is None and any(task.labels_words for task in tasks):
        example = replace(example, words=tuple(split_text(example.text, splitting)))
    if not any(task.inputs(example) for task in tasks):
        what = "one text" if example.second is None else "a pair of texts"
        names = ", ".join(task.summary() for task in tasks)
        advice = [f"Masks are filled by: {task.instead}" for task in tasks if task.instead]
        if len(advice) < len(tasks):
            advice += [
                "Give a pair (TEXT, a tab, TEXT; or --pair), a question (--question, --context), "
                "or --choice"
            ]
        raise InputError(
            f"{example.where} is {what}, and no task here reads that: {names}. {'. '.join(advice)}"
        )
    return example


def _check_is_read(example: Example, without: Example, part: str, tasks: Sequence[Task]) -> None:
    """Raise InputError if no task reads a part of an example: all read as much without it."""
    if all(task.inputs(example) == task.inputs(without) for task in tasks):
        names = ", ".join(task.summary() for task in tasks)
        raise InputError(f"{example.where} has {part}, which no task here reads: {names}")
