"""JSON lines, and JSON files that hold a list."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibert.files import InputError, parse_json
from train.data.columns import from_fields
from train.data.examples import Example
from train.data.labelstudio import is_task, tasks_fields
from train.data.reading import Reading
from train.data.squad import squad_examples


def read_json_lines(file: Path, reading: Reading) -> Iterator[Example]:
    """An object a line, with the fields that `from_fields` describes."""
    for i, line in enumerate(reading.lines(file), start=1):
        where = f"{file}, line {i}"
        if line.strip():
            yield from_fields(parse_object(line, where), where, reading)


def read_json(file: Path, reading: Reading) -> Iterator[Example]:
    """A list of such objects, alone or as the field `data`; the tasks that Label Studio exports;
    SQuAD's own object; or JSON lines under another name."""
    text = reading.text(file)
    if _is_lines(text):
        yield from read_json_lines(file, reading)
        return
    content = parse_json(text, str(file))
    if isinstance(content, list) and content and _has(content[0], "qas"):  # a list of paragraphs
        content = {"data": [{"paragraphs": content}]}
    articles = content.get("data") if isinstance(content, dict) else content
    if not isinstance(articles, list):
        raise InputError(
            f"{file}: must hold a list of objects, as [{{...}}, {{...}}], or an object a line, or "
            'SQuAD\'s object, {"data": [...]}'
        )
    if isinstance(content, dict) and not all(
        _has(e, "context") or _has(e, "text") for e in articles
    ):
        yield from squad_examples(content, file)
        return
    objects = [(f"{file}, object {i}", one) for i, one in enumerate(articles, start=1)]
    records = [(where, _object(one, where)) for where, one in objects]
    tasks = [(where, record) for where, record in records if is_task(record)]
    fields = dict(tasks_fields(tasks, reading))
    for where, record in records:
        yield from_fields(fields.get(where, record), where, reading)


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


def _is_lines(text: str) -> bool:
    """Whether the first line is an object by itself, and is not the only one."""
    first, _, rest = text.strip().partition("\n")
    if not rest or not first.startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def parse_object(line: str, where: str) -> dict[str, Any]:
    """The object of one line. Raises InputError, saying where, if it is none."""
    return _object(parse_json(line, where), where)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be an object with a text, not {type(value).__name__}")
    return value
