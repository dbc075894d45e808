"""CoNLL columns: the format of shared tasks on tagging."""

import re
from collections.abc import Iterator
from pathlib import Path

from minibert.files import InputError, read_lines
from train.data.examples import Example


def read_conll(file: Path) -> Iterator[Example]:
    """CoNLL columns: a word first and its tag last on each line; a blank line ends a sentence."""
    words: list[str] = []
    tags: list[str] = []
    first = 1
    for i, line in enumerate([*read_lines(file), ""], start=1):
        columns = split_columns(line)
        if line.strip() and columns[0] != "-DOCSTART-":
            if len(columns) < 2:
                raise InputError(
                    f"{file}, line {i}: {line!r} has no tag; a line is a word, and its tag last"
                )
            if not words:
                first = i
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            where = f"{file}, line {first}"
            yield Example(" ".join(words), {"tags": tuple(tags)}, where, tuple(words))
            words, tags = [], []


def split_columns(line: str) -> list[str]:
    """The columns of a line, at spaces and tabs only: a no-break space may stand inside a word."""
    return [column for column in re.split("[ \t]+", line) if column]
