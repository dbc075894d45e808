"""JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibert.files import InputError, read_lines
from train.data.columns import from_fields
from train.data.examples import Example


def read_json_lines(file: Path) -> Iterator[Example]:
    """An object a line, with the fields that `from_fields` describes."""
    for i, line in enumerate(read_lines(file), start=1):
        if line.strip():
            where = f"{file}, line {i}"
            yield from_fields(parse_object(line, where), where)


def parse_object(line: str, where: str) -> dict[str, Any]:
    """The object of one line. Raises InputError, saying where, if it is none."""
    try:
        record = json.loads(line)
        if "\\u" in line:  # an escape can write half of a pair
            json.dumps(record, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg} at character {error.pos})") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds half a surrogate pair, which is no character") from error
    # a number of thousands of digits, brackets thousands deep
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON that can be read ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: must be an object with a text, not {type(record).__name__}")
    return record
