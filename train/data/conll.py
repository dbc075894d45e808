"""CoNLL columns: the format of shared tasks on tagging."""

import re
from collections.abc import Iterator
from pathlib import Path

from minibert.files import InputError, read_lines
from train.data.examples import Example

COLUMN = re.compile("[^ \t]+")  # a no-break space may stand inside a word


def read_conll(file: Path) -> Iterator[Example]:
    """CoNLL columns: a word first and its tag last on each line; a blank line ends a sentence."""
    words: list[str] = []
    tags: list[str] = []
    first = 1
    for i, line in enumerate([*read_lines(file), ""], start=1):
        columns = COLUMN.findall(line)
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
