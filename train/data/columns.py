"""Named fields -> an example: what tables, JSON lines and the Hub's columns share.

A field of whole numbers alone holds the names of classes, as 0 and 1 mostly are. If at least one of
its numbers has a decimal point, all are scores.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minibert.files import InputError
from train.data.examples import Example
from train.data.spans import locate, span_tags
from train.data.words import WORD

TEXT_KEYS = ("text", "words", "text_a", "text_b")


def from_fields(record: Mapping[str, Any], where: str) -> Example:
    """An example from named fields: text, words, or text_a and text_b; every other field is a
    label.

    A string is a text's label, a number a label or a score, a list of strings as long as `words`
    the words' tags, and a list of [start, end, type] the entities of `text`, in characters. What is
    null or blank is no label. Raises InputError, naming the field, for anything else. `settle` has
    to follow, when all examples are read.
    """
    record = {name: value for name, value in record.items() if value is not None}
    text, second, words = _texts(record, where)
    labels: dict[str, Any] = {}
    for name, value in record.items():
        if name in TEXT_KEYS or name == "id" or (isinstance(value, str) and not value.strip()):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float | list):
            raise InputError(
                f"{where}: {name} = {value!r} is no label: a string, a number or a list is one"
            )
        if isinstance(value, str):
            labels[name] = value.strip()
        elif not isinstance(value, list):
            if not abs(value) < 1e300:  # NaN too
                raise InputError(f"{where}: {name} = {value!r:.40} is not a finite number")
            labels[name] = value
        elif all(isinstance(tag, str) for tag in value) and (value or "text" not in record):
            labels[name] = _tags(value, words, where, name)
        elif "text" not in record:
            raise InputError(
                f"{where}: {name} holds spans, which count characters of a text; "
                "here is no field text"
            )
        else:
            labels[name] = value  # spans, or an empty list: `settle` knows when it has seen all
    return Example(text, labels, where, None if words is None else tuple(words), second)


def _texts(record: Mapping[str, Any], where: str) -> tuple[str, str | None, list[str] | None]:
    """The text, the second text and the words of a record."""
    if not ("text" in record or "words" in record or {"text_a", "text_b"} <= record.keys()):
        raise InputError(
            f"{where}: needs text, or words, or text_a and text_b; it has "
            f"{', '.join(record) or 'nothing'}"
        )
    words = record.get("words")
    if words is not None and (
        not isinstance(words, list)
        or not words
        or not all(isinstance(word, str) and word.strip() for word in words)
    ):
        raise InputError(f"{where}: words must be a list of texts, none of them blank")
    text = record["text_a"] if "text_a" in record else record.get("text", " ".join(words or ()))
    second = record.get("text_b")
    for part in (text, second) if "text_b" in record else (text,):
        if not isinstance(part, str) or not part.strip():
            raise InputError(f"{where}: a text must be a string that is not blank, not {part!r}")
    return text, second, words


def _tags(value: Sequence[str], words: Sequence[str] | None, where: str, name: str) -> tuple:
    if words is None:
        raise InputError(
            f"{where}: {name} is a list of texts; tags need words beside them, as many"
        )
    if len(value) != len(words):
        raise InputError(f"{where}: {name} has {len(value)} tags for {len(words)} words")
    return tuple(value)


def settle(
    splits: Mapping[str, Sequence[Example]], scores: Collection[str] = ()
) -> dict[str, list[Example]]:
    """Decide what only a whole field tells: whether whole numbers are scores, and whether an empty
    list means "no entity" or "no tags".

    scores: fields whose whole numbers are scores in any case. Spans become BIO tags. Raises
    InputError, naming file and line, for spans that are not of their text.
    """
    examples = [example for split in splits.values() for example in split]
    labels = [item for example in examples for item in example.labels.items()]
    fractions = {*scores, *(name for name, value in labels if isinstance(value, float))}
    tagged = {name for name, value in labels if isinstance(value, tuple)}
    return {
        split: [_settled(example, fractions, tagged) for example in examples]
        for split, examples in splits.items()
    }


def _settled(example: Example, fractions: Collection[str], tagged: Collection[str]) -> Example:
    labels = dict(example.labels)
    words = example.words
    for name, value in example.labels.items():
        if isinstance(value, int):
            labels[name] = float(value) if name in fractions else str(value)
        elif value == [] and name in tagged:
            labels[name] = _tags(value, words, example.where, name)
        elif isinstance(value, list):
            if example.words is None:
                places = [match.span() for match in WORD.finditer(example.text)]
            else:
                places = locate(example.words, example.text, example.where)
            words = tuple(example.text[start:end] for start, end in places)
            labels[name] = span_tags(example.text, places, value, example.where, name)
    return replace(example, labels=labels, words=words)
