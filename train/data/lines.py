"""Plain .txt files that hold labels: fastText's lines, a label and a text, or CoNLL columns."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from minibert.files import InputError
from train.data.columns import has_text
from train.data.conll import TAG, read_conll
from train.data.examples import Example
from train.data.reading import Reading
from train.data.tables import read_table

FASTTEXT = "__label__"


def read_text_file(file: Path, reading: Reading) -> Iterator[Example]:
    """Lines `__label__NAME text` as fastText reads them, with one label or several; a table with
    tabs and a header that names a text; lines `label, tab, text`; or CoNLL columns.

    Raises InputError for a file that is none of these: a text without a label teaches nothing.
    """
    lines = [line for line in reading.lines(file) if line.strip()]
    first = lines[0] if lines else ""
    if first.startswith(FASTTEXT):
        return _fasttext(file, reading)
    if reading.columns and not reading.header:
        return read_table(file, reading)
    columns = [line.split() for line in lines if line.split()[0] != "-DOCSTART-"]
    has_tags = all(len(c) > 1 and TAG.fullmatch(c[-1]) for c in columns)
    if columns and (has_tags or _has_sentences(file, columns, reading)):
        return read_conll(file, reading)
    if has_text(first.split("\t"), reading):
        return read_table(file, reading)
    if lines and all(line.count("\t") == 1 for line in lines):
        return _labelled(file, reading)
    raise InputError(
        f"{file}: no labels are recognised. A .txt file is lines of a label, a tab and a text; "
        "lines that begin with __label__; a table with tabs whose header names a text; or words "
        "with their tags, one a line"
    )


def _has_sentences(file: Path, columns: Sequence[Sequence[str]], reading: Reading) -> bool:
    """Whether each line has as many words, at least two, and blank lines stand between groups of
    lines: then they are words with tags of any scheme."""
    lines = [line.strip() for line in reading.lines(file)]
    ends = sum(
        bool(line) and not after for line, after in zip(lines, [*lines[1:], ""], strict=True)
    )
    widths = {len(line) for line in columns}
    return 1 < ends <= len(columns) / 2 and len(widths) == 1 and 1 not in widths


def _fasttext(file: Path, reading: Reading) -> Iterator[Example]:
    for i, line in enumerate(reading.lines(file), start=1):
        words = line.split()
        names = [word.removeprefix(FASTTEXT) for word in words if word.startswith(FASTTEXT)]
        text = " ".join(words[len(names) :])
        if words:
            if not text or "" in names or FASTTEXT in text:
                raise InputError(f"{file}, line {i}: {line!r:.80} should read __label__NAME text")
            yield Example(text, {"label": names} if names else {}, f"{file}, line {i}")


def _labelled(file: Path, reading: Reading) -> Iterator[Example]:
    """A label and a text, or the other way round: the labels are those that come back."""
    rows = [
        (i, [part.strip() for part in line.split("\t")])
        for i, line in enumerate(reading.lines(file), start=1)
        if line.strip()
    ]
    first, second = (len({row[k] for _, row in rows}) for k in (0, 1))
    label = 0 if first <= second else 1
    if label == 1:
        reading.announce("the first column is read as text, the second as label")
    for i, row in rows:
        if not row[1 - label]:
            raise InputError(f"{file}, line {i}: a label without a text")
        labels = {"label": row[label]} if row[label] else {}
        yield Example(row[1 - label], labels, f"{file}, line {i}")
