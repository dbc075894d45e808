"""CSV and TSV tables."""

import ast
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minibert.files import InputError, split_lines
from train.data.columns import INPUTS, from_fields, has_text, texts_among
from train.data.examples import Example
from train.data.layouts import layout_of
from train.data.reading import MOST_COLUMNS, Reading

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,15}")  # not "007", which may be a name
FRACTION = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
# A list as Python writes it, which is how pandas does; and as NumPy does, without commas.
LIST = re.compile(r"\[.*\]", re.DOTALL)
ELEMENT = r"""(?:'[^']*'|"[^"]*"|-?[0-9]+)"""
NUMPY_LIST = re.compile(rf"\[{ELEMENT}(\s+{ELEMENT})+\]")


def read_table(file: Path, reading: Reading) -> Iterator[Example]:
    """CSV or TSV with a header: a column text (or text_a and text_b), every other column a label.

    A column without a name, such as the row numbers that pandas writes, is left out. A cell may
    hold a list, as Python, JSON or NumPy writes it. Without a header, the columns that `reading`
    names are read, and no others. A file that is laid out as a known benchmark distributes it is
    read so.
    """
    text = reading.text(file)
    layout = None if reading.columns else layout_of(file, text)
    if layout is not None:
        reading.announce(f"read as {layout.name} is distributed")
        reading = replace(
            reading, columns=layout.columns, header=layout.header, quoted=False, delimiter="\t"
        )
    header, rows = _header_and_rows(text, file, reading)
    chosen = {theirs: ours for ours, theirs in reading.columns}
    texts = texts_among([name for name in header if name], reading)
    only_chosen = layout is not None or not reading.header
    short = 0
    for line, row in rows:
        where = f"{file}, line {line}"
        if layout is not None and layout.may_be_short and len(row) < len(header):
            short += 1
            continue
        _check_width(row, header, where, reading)
        cells = {
            name: cell if name in texts else _value(cell)
            for name, cell in zip(header, row, strict=False)
            if name and (name in chosen or not only_chosen)
        }
        if layout is not None:
            cells = layout.cleaned(cells, where)
        yield from_fields(cells, where, reading)
    if short:
        reading.announce(f"{file}: {short} lines with too few columns are left out")


Row = tuple[int, list[str]]  # the line that it begins on, and its cells


def _header_and_rows(text: str, file: Path, reading: Reading) -> tuple[list[str], list[Row]]:
    """The columns' names, or their numbers, and the rows below, without the empty ones."""
    rows = list(_rows(text, file, reading))
    if reading.header:
        header = [name.strip() for name in rows.pop(0)[1]] if rows else []
        _check_header(header, f"{file}, line 1", reading)
    elif reading.columns:  # up to the last that is named
        last = max(int(number) for _, number in reading.columns)
        header = [str(number) for number in range(1, last + 1)]
    else:
        raise InputError(
            f"{file}: without a header, say which column is what, counting from 1: "
            '--columns "text=1, label=2"'
        )
    return header, [(line, row) for line, row in rows if row]


def _check_width(row: Sequence[str], header: Sequence[str], where: str, reading: Reading) -> None:
    """Raise InputError for a row with another number of cells than the header; if there is none,
    for a row without all that are named."""
    if reading.header and len(row) != len(header):
        raise InputError(f"{where}: {len(row)} values, but {len(header)} columns in the header")
    if len(row) < len(header):
        raise InputError(f"{where}: {len(row)} values, but --columns names column {len(header)}")


def _rows(text: str, file: Path, reading: Reading) -> Iterator[Row]:
    """Each row with the line that it begins on."""
    delimiter = reading.delimiter or ("," if file.suffix == ".csv" else "\t")
    if not reading.quoted:
        for i, line in enumerate(split_lines(text), start=1):
            yield i, line.split(delimiter) if line else []
        return
    # newline="": a quoted text keeps its line ends
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        first = 1  # the line that the next row begins on; a row may have several
        for row in rows:
            yield first, row
            first = rows.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{file}, line {rows.line_num}: {error}; if quotation marks are part of the texts, say "
            "--no-quoted"
        ) from error


def _check_header(header: Sequence[str], where: str, reading: Reading) -> None:
    if not header:
        raise InputError(f"{where}: there must be the names of the columns")
    if len(header) > MOST_COLUMNS:
        raise InputError(f"{where}: {len(header):,} columns; at most {MOST_COLUMNS:,} are read")
    names = ", ".join(header)
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise InputError(f"{where}: the column {twice[0]!r} stands twice in {names}")
    for ours, theirs in reading.columns:
        if theirs not in header:
            message = f"{where}: no column {theirs!r}, which --columns names; it has {names}"
            if ours in INPUTS:
                raise InputError(message)
            reading.announce(message)
    if not has_text(header, reading):
        separator = next((one for one in (";", "\t", ",", "|") if one in "".join(header)), None)
        hint = (
            '. Say which column is the text: --columns "text=COLUMN"; or that the first line is no '
            "header: --no-header"
        )
        if separator is not None:
            said = "tab" if separator == "\t" else repr(separator)
            hint = f"; if {separator!r} separates the columns, say so: --delimiter {said}"
        raise InputError(f"{where}: no column text (or text_a and text_b); it has {names}{hint}")


def _value(cell: str) -> Any:
    """A cell as a number or a list, if it reads as one and nothing of it is lost so, else as a
    text."""
    cell = cell.strip()
    if WHOLE.fullmatch(cell):
        return int(cell)
    if LIST.fullmatch(cell):
        return _list(cell)
    return float(cell) if FRACTION.fullmatch(cell) else cell


def _list(cell: str) -> Any:
    """A cell in brackets as the list that Python, JSON or NumPy writes so, or else as it is."""
    for read in (_numpy_list, json.loads, ast.literal_eval):
        try:
            return list(read(cell))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return cell


def _numpy_list(cell: str) -> list[Any]:
    if not NUMPY_LIST.fullmatch(cell):
        raise ValueError
    return [ast.literal_eval(element) for element in re.findall(ELEMENT, cell)]
