"""Named fields -> an example: what tables, JSON lines and the Hub's columns share."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from minibert.files import InputError
from train.data.anchors import ANCHORS, is_anchored, is_of_anchor, take_pair
from train.data.examples import Answers, Example
from train.data.labelstudio import ABOUT_THE_WORK, is_about_the_work
from train.data.reading import Reading
from train.data.spans import as_span

# What is read, by our names. Every other field but the id is a label.
INPUTS = ("text", "words", "text_a", "text_b", "question", "context", "answers", "choices")

# The names that other people's files have for them; the first that is there is taken, where none
# of ours is. Upper and lower case are the same.
PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("#1 string", "#2 string"),
)
TEXTS = (
    *("sentence", "tweet", "review", "comment", "comment_text", "message", "utterance", "post"),
    *("content", "body", "document", "data", "headline", "question"),
)
WORDS = ("tokens",)
CHOICES = re.compile("(ending|choice|option)_?([0-9])")  # SWAG's ending0, ending1 ...
STEMS = ("text", "sent1", "question", "context")  # what the choices may follow
MOST = 1e300  # what a number's size must be below
NEEDED = "text, or words, or text_a and text_b, or anchor and positive"


def from_fields(record: Mapping[str, Any], where: str, reading: Reading | None = None) -> Example:
    """An example from named fields: text, words, or text_a and text_b; question and context, with
    answers; text and choices; or anchor and positive, with negatives. Every other field but the id
    is a label.

    A string or a boolean is a text's label, a number a label or a score, a list of strings as long
    as `words` the words' tags, and a list of [start, end, type] the entities of `text`, in
    characters. Another list of strings or whole numbers holds several labels of the text. What is
    null or blank is no label. Raises InputError, naming the field, for anything else. `settle` has
    to follow, when all examples are read.
    """
    reading = reading or Reading()
    record = {name: value for name, value in record.items() if value is not None and value != {}}
    if is_about_the_work(tuple(record)):
        reading.announce(f"left out, as Label Studio's own: {', '.join(ABOUT_THE_WORK)}")
        record = {name: value for name, value in record.items() if name not in ABOUT_THE_WORK}
    names, told = _naming(tuple(record), _lists(record), reading.columns)
    reading.seen.update(name for name, value in record.items() if value != "")
    for text in told:
        reading.announce(text)
    record = {names[name]: value for name, value in record.items()}
    name_of_example = record.get("id")
    if not isinstance(name_of_example, str | int) or isinstance(name_of_example, bool):
        name_of_example = None
    if "choices" in record or sum(map(bool, map(CHOICES.fullmatch, record))) > 1:
        return _choice(record, where, name_of_example)
    if "text" not in record and {"question", "context"} <= record.keys():
        if "answers" in record:
            return _question(record, where, name_of_example)
        record["text_a"], record["text_b"] = record.pop("question"), record.pop("context")
    labels: dict[str, Any] = {}
    if is_anchored(record):
        labels["positive"] = take_pair(record, where)
    text, second, words = _texts(record, where)
    several = dict(reading.multilabel)
    for name, value in record.items():
        if name not in (*INPUTS, "id"):
            tagged = None if name in several else words
            try:
                label = _label(value, name, tagged, "text" in record, where)
            except InputError as error:
                if reading.is_wanted(name):
                    hint = "" if reading.tasks else "; --tasks NAME reads the named labels alone"
                    raise InputError(f"{error}{hint}") from error
                continue
            if label is not None:
                labels[name] = label
    return Example(
        text, labels, where, None if words is None else tuple(words), second, id=name_of_example
    )


def _lists(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, value in record.items() if isinstance(value, list))


@lru_cache(maxsize=1024)
def _naming(
    names: tuple[str, ...], lists: tuple[str, ...], columns: tuple[tuple[str, str], ...]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What each of a record's fields is called here, and what to tell the user of it. lists: the
    fields that are lists, as words must be."""
    chosen = {theirs: ours for ours, theirs in columns}
    naming = {name: chosen.get(name, name) for name in names}
    if {"text", "text_b"} <= set(chosen.values()):
        naming = {name: "text_a" if ours == "text" else ours for name, ours in naming.items()}
    for name in names:  # a field of the file gives way to the one that the user calls so
        if name not in chosen and name in chosen.values():
            naming[name] = f"{name} (the file's)"
    lower = {name.casefold(): name for name in names if name not in chosen}
    told = {}

    def take(theirs: str, ours: str) -> None:
        naming[lower[theirs]] = ours
        if lower[theirs] != ours:
            told[lower[theirs]] = ours

    have = set(naming.values())
    if "words" not in have:
        for theirs in (name for name in WORDS if lower.get(name) in lists):
            take(theirs, "words")
            have.add("words")
    is_swag = {"sent1", "sent2", "ending0"} <= have
    is_question = {"question", "context"} <= have
    if not (have & {"text", "words", "text_a"} or is_question or is_swag or is_anchored(have)):
        pair = next((pair for pair in PAIRS if set(pair) <= lower.keys()), None)
        anchor = next((name for name in ANCHORS if name in lower), None)
        if "text" in lower:
            take("text", "text")
        elif pair is not None:
            take(pair[0], "text_a")
            take(pair[1], "text_b")
        elif "positive" in have | lower.keys() and (anchor is not None or "anchor" in have):
            if anchor is not None and "anchor" not in have:
                take(anchor, "anchor")
            if "positive" not in have:
                take("positive", "positive")
        elif (text := next((name for name in TEXTS if name in lower), None)) is not None:
            take(text, "text_a" if "text_b" in have else "text")
    telling = [f"{theirs} is read as {ours}" for theirs, ours in told.items()]
    if is_anchored(naming.values()):
        telling.append("anchor and positive are read as texts that belong together")
    return naming, tuple(telling)


def inputs_of(
    record: Mapping[str, Any], columns: tuple[tuple[str, str], ...] = ()
) -> dict[str, Any]:
    """The fields of a record that are read, and its id: all but the labels."""
    given = tuple(name for name, value in record.items() if value is not None)
    names, _ = _naming(given, _lists(record), columns)
    pair = {"anchor", "positive"} if is_anchored(names.values()) else set()
    return {
        name: record[name]
        for name, ours in names.items()
        if ours in pair or (ours != "answers" and is_read(ours))
    }


def is_read(name: str) -> bool:
    """Whether a field, by our name for it, is read or is the id, and is no label."""
    return name in (*INPUTS, *STEMS, "sent2", "id") or CHOICES.fullmatch(name) is not None


def texts_among(names: Sequence[str], reading: Reading) -> set[str]:
    """Those fields whose values are texts, though they may look like numbers."""
    naming, _ = _naming(tuple(names), (), reading.columns)
    texts = {*INPUTS, *STEMS, "sent2"} - {"words", "answers", "choices"}
    found = {name for name, ours in naming.items() if ours in texts or CHOICES.fullmatch(ours)}
    if is_anchored(naming.values()):
        found |= {name for name, ours in naming.items() if is_of_anchor(ours)} - {"negatives"}
    return found


def has_text(names: Sequence[str], reading: Reading) -> bool:
    """Whether a record with these fields has something to read."""
    have = set(_naming(tuple(names), tuple(names), reading.columns)[0].values())
    pairs = ({"text_a", "text_b"}, {"question", "context"})
    is_pair = is_anchored(have) or any(pair <= have for pair in pairs)
    return is_pair or bool(have & {"text", "words", "sent1"})


def _texts(record: Mapping[str, Any], where: str) -> tuple[str, str | None, list[str] | None]:
    """The text, the second text and the words of a record."""
    if not ("text" in record or "words" in record or {"text_a", "text_b"} <= record.keys()):
        raise InputError(
            f"{where}: needs {NEEDED}; it has {', '.join(record) or 'nothing'}"
            + ('. Say which field is the text: --columns "text=FIELD"' if record else "")
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
        _check_text(part, where)
    return text, second, words


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: a text must be a string that is not blank, not {text!r}")


def _label(
    value: Any, name: str, words: Sequence[str] | None, has_own_text: bool, where: str
) -> Any:
    """A field's value as a label; None if it is none."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float | list):
        raise InputError(
            f"{where}: {name} = {value!r} is no label: a string, a number or a list is one"
        )
    if not isinstance(value, list):
        if not abs(value) < MOST:  # NaN too
            raise InputError(f"{where}: {name} = {value!r:.40} is not a finite number")
        return value
    if words is not None and all(isinstance(tag, str) for tag in value):
        return as_tags(value, words, where, name) if value or not has_own_text else value
    if len(value) > 1 and all(isinstance(one, int | float) and one in (0, 1) for one in value):
        value = [int(one) for one in value]  # of several labels, as true and false or 1.0 and 0.0
    if all(isinstance(one, str) for one in value) or all(type(one) is int for one in value):
        return value  # `settle` knows what they are when it has seen all
    if not has_own_text:
        raise InputError(
            f"{where}: {name} holds spans, which count characters of a text; here is no field text"
        )
    return [as_span(one, where, name) for one in value]


def as_tags(value: Sequence[str], words: Sequence[str] | None, where: str, name: str) -> tuple:
    """A list as the tags of words."""
    if words is None:
        raise InputError(
            f"{where}: {name} is a list of texts; tags need words beside them, as many"
        )
    if len(value) != len(words):
        raise InputError(f"{where}: {name} has {len(value)} tags for {len(words)} words")
    return tuple(value)


def _question(record: Mapping[str, Any], where: str, name: str | int | None) -> Example:
    """A question, the text that answers it, and the answers as SQuAD has them."""
    question, context, answers = (record[key] for key in ("question", "context", "answers"))
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        keys = ("text", "answer_start")
        answers = {key: [answer.get(key) for answer in answers] for key in keys}
    _check_text(question, where)
    _check_text(context, where)
    texts, starts = (
        answers.get(key) if isinstance(answers, dict) else None for key in ("text", "answer_start")
    )
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
        or not all(type(start) is int for start in starts)
    ):
        raise InputError(
            f'{where}: answers should read {{"text": [...], "answer_start": [...]}}, as many texts '
            "as numbers"
        )
    for text, start in zip(texts, starts, strict=True):
        if not text or start < 0 or context[start : start + len(text)] != text:
            raise InputError(
                f"{where}: the answer {text!r} does not stand at character {start} of the context"
            )
    answer = Answers(tuple(texts), tuple(starts))
    return Example(question, {"answer": answer}, where, second=context, id=name)


def _choice(record: Mapping[str, Any], where: str, name: str | int | None) -> Example:
    """A text and what may follow it, of which one is right: `choices`, or SWAG's columns."""
    numbered = sorted((found[2], key) for key in record if (found := CHOICES.fullmatch(key)))
    choices = record.get("choices", [record[key] for _, key in numbered])
    text: Any = next((record[key] for key in STEMS if key in record), None)
    _check_text(text, where)
    if "sent2" in record and "choices" not in record:  # SWAG: the second sentence's beginning
        choices = [f"{record['sent2']} {choice}" for choice in choices]
    if not isinstance(choices, list) or len(choices) < 2:
        raise InputError(f"{where}: choices must be a list of at least two texts")
    for choice in choices:
        _check_text(choice, where)
    labels = {}
    if (right := record.get("label")) is not None:
        if str(right) not in map(str, range(len(choices))):
            raise InputError(
                f"{where}: label = {right!r} must be the right choice's number, 0 to "
                f"{len(choices) - 1}"
            )
        labels["label"] = str(right)
    return Example(text, labels, where, choices=tuple(choices), id=name)
