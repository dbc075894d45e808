"""JSON lines, and JSON files that hold a list."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibert.files import InputError
from train.data.columns import from_fields
from train.data.examples import Example
from train.data.labelstudio import is_task, task_fields
from train.data.reading import Reading
from train.data.squad import squad_examples


def read_json_lines(file: Path, reading: Reading) -> Iterator[Example]:
    """An object a line, with the fields that `from_fields` describes."""
    for i, line in enumerate(reading.lines(file), start=1):
        where = f"{file}, line {i}"
        if line.strip():
            yield from_fields(parse_object(line, where), where, reading)


def read_json(file: Path, reading: Reading) -> Iterator[Example]:
    """A list of such objects, or of the tasks that Label Studio exports; or SQuAD's own object."""
    content = _value(reading.text(file), str(file))
    if not isinstance(content, list):
        yield from squad_examples(content, file)
        return
    for i, value in enumerate(content, start=1):
        where = f"{file}, object {i}"
        record = _object(value, where)
        yield from_fields(task_fields(record, where) if is_task(record) else record, where, reading)


def parse_object(line: str, where: str) -> dict[str, Any]:
    """The object of one line. Raises InputError, saying where, if it is none."""
    return _object(_value(line, where), where)


def _value(text: str, where: str) -> Any:
    """The value that JSON text holds."""
    try:
        value = json.loads(text)
        if "\\u" in text:  # an escape can write half of a pair
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise InputError(
            f"{where}{line}: not JSON ({error.msg} at character {error.colno - 1})"
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds half a surrogate pair, which is no character") from error
    # a number of thousands of digits, brackets thousands deep
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON that can be read ({error})") from error
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be an object with a text, not {type(value).__name__}")
    return value
