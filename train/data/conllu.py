"""CoNLL-U, the format of Universal Dependencies: words with their parts of speech."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from minibert.files import InputError
from train.data.examples import Example
from train.data.reading import Reading

TASKS = {"upos": 3, "xpos": 4}  # and their columns
TEXT = "# text = "


def read_conllu(file: Path, reading: Reading) -> Iterator[Example]:
    """The tasks upos and xpos: a part of speech for each word.

    A token of several words ("don't") is their spelling alone, and an empty node ("8.1") is no
    word; both lines are left out. The text is the comment `# text = ...`, if all words stand in it.
    """
    text, where = "", ""
    rows: list[list[str]] = []
    for i, line in enumerate([*reading.lines(file), ""], start=1):
        if line.startswith("#"):
            text = line.removeprefix(TEXT) if line.startswith(TEXT) else text
        elif line.strip():
            columns = line.split("\t")
            if len(columns) != 10:
                raise InputError(
                    f"{file}, line {i}: {len(columns)} columns; CoNLL-U has 10, with tabs between"
                )
            where = where or f"{file}, line {i}"
            if "-" not in columns[0] and "." not in columns[0]:
                rows.append(columns)
        elif rows:
            words = tuple(columns[1] for columns in rows)
            labels = {name: tuple(columns[i] for columns in rows) for name, i in TASKS.items()}
            known = {name: tags for name, tags in labels.items() if set(tags) != {"_"}}
            example = Example(text, known, where, words)
            yield example if example.word_spans else replace(example, text=" ".join(words))
            text, where, rows = "", "", []
