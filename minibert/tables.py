"""Texts with their ids, read from files of any place that fsspec knows: a folder, s3://, gs://.

What a file is, its suffix says: .jsonl or .ndjson, .csv or .tsv, .parquet; any other is plain text,
a text on each line. A table's texts stand in one column, and its ids in another or nowhere: then a
text's id is its file's name, below the folder, and its number there, counted from 0.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from typing import Any

from minibert.files import InputError, parse_json
from minibert.texts import check_text, lazy_lines

TABLES = ("jsonl", "ndjson", "csv", "tsv", "parquet")


@dataclass(frozen=True)
class Columns:
    """Where a table has its texts, and where their ids."""

    text: str = "text"
    id: str | None = None


def find_files(path: str) -> tuple[Any, dict[str, str]]:
    """A file, or all files of a folder and below, in the order of their names; hidden ones are left
    out. Each has its name below the folder. With them comes the file system that opens them. Raises
    InputError if there is none."""
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(path)
        if system.isfile(root):
            return system, {root: root.rpartition("/")[2]}
        named = {file: file[len(root) :].lstrip("/") for file in sorted(system.find(root))}
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    shown = {
        file: name
        for file, name in named.items()
        if not any(part.startswith((".", "_")) for part in name.split("/"))
    }
    if not shown:
        raise InputError(f"there is no file {path}, and no folder of that name with files")
    return system, shown


def read_texts(
    system: Any, file: str, name: str, columns: Columns, size: int
) -> Iterator[tuple[list[str], list[str]]]:
    """The ids and texts of a file, `size` of them at a time. name: of the file, for ids. Raises
    InputError, naming the file and the row, for what is no text, and for a row without id."""
    rows = _rows(system, file, columns)
    number = 0
    while some := list(islice(rows, size)):
        ids, texts = [], []
        for own, text in some:
            where = f"{file}, row {number} (counted from 0)"
            texts.append(check_text(text, where))
            if columns.id is not None and own is None:
                raise InputError(f"{where}: its {columns.id!r} is empty, and was to be its id")
            ids.append(f"{name}:{number}" if columns.id is None else str(own))
            number += 1
        yield ids, texts


def _rows(system: Any, file: str, columns: Columns) -> Iterator[tuple[Any, Any]]:
    """The id, or None, and the text of each row."""
    suffix = file.rpartition(".")[2].lower()
    if suffix not in TABLES:
        yield from ((None, line) for line in lazy_lines(system.open(file, "rb"), file))
        return
    for number, row in enumerate(_records(system, file, suffix, columns)):
        for column in filter(None, (columns.text, columns.id)):
            if column not in row:
                has = ", ".join(map(str, row)) or "nothing"
                raise InputError(
                    f"{file}, row {number} (counted from 0): there is no column {column!r}; it has "
                    f"{has}. --column names the texts, --id their ids"
                )
        yield (None if columns.id is None else row[columns.id]), row[columns.text]


def _records(system: Any, file: str, suffix: str, columns: Columns) -> Iterator[dict[str, Any]]:
    """The rows of a table."""
    if suffix == "parquet":
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile

        wanted = {columns.text, columns.id}
        try:
            with system.open(file, "rb") as stream:
                table = ParquetFile(stream)
                names = [name for name in table.schema_arrow.names if name in wanted]
                names = names if columns.text in names else table.schema_arrow.names
                for batch in table.iter_batches(columns=names):
                    yield from batch.to_pylist()
        except (ArrowException, OSError) as error:
            raise InputError(f"{file} is no sound Parquet file: {error}") from error
    elif suffix in ("csv", "tsv"):
        with TextIOWrapper(system.open(file, "rb"), encoding="utf-8-sig", newline="") as stream:
            try:
                yield from csv.DictReader(stream, delimiter="\t" if suffix == "tsv" else ",")
            except (csv.Error, UnicodeDecodeError) as error:
                raise InputError(f"{file} is no sound table: {error}") from error
    else:
        for number, line in enumerate(lazy_lines(system.open(file, "rb"), file), start=1):
            if line.strip():
                yield _object(line, f"{file}, line {number}")


def _object(line: str, where: str) -> dict[str, Any]:
    found = parse_json(line, where)
    if not isinstance(found, dict):
        raise InputError(f"{where}: must hold an object, not {type(found).__name__}")
    return found
