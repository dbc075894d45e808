"""CSV and TSV tables."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from minibert.files import InputError, read_text
from train.data.columns import TEXT_KEYS, from_fields
from train.data.examples import Example

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,15}")  # not "007", which may be a name
FRACTION = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")


def read_table(file: Path) -> Iterator[Example]:
    """CSV or TSV with a header: a column text (or text_a and text_b), every other column a label.

    A column without a name, such as the row numbers that pandas writes, is left out.
    """
    # newline="": a quoted text keeps its line ends
    stream = io.StringIO(read_text(file).removeprefix("\ufeff"), newline="")
    rows = csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(header, f"{file}, line 1")
        first = rows.line_num + 1  # the line that the next row begins on; a row may have several
        for row in rows:
            where, first = f"{file}, line {first}", rows.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{where}: {len(row)} values, but {len(header)} columns in the header"
                )
            cells = {
                name: cell if name in TEXT_KEYS else _value(cell)
                for name, cell in zip(header, row, strict=True)
                if name
            }
            yield from_fields(cells, where)
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num}: {error}") from error


def _check_header(header: list[str], where: str) -> None:
    if not header:
        raise InputError(f"{where}: there must be the names of the columns")
    names = ", ".join(header)
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise InputError(f"{where}: the column {twice[0]!r} stands twice in {names}")
    if "text" not in header and not {"text_a", "text_b"} <= set(header):
        raise InputError(f"{where}: no column text (or text_a and text_b); it has {names}")


def _value(cell: str) -> str | int | float:
    """A cell as a number, if it reads as one and nothing of it is lost so, else as a text."""
    cell = cell.strip()
    if WHOLE.fullmatch(cell):
        return int(cell)
    return float(cell) if FRACTION.fullmatch(cell) else cell
