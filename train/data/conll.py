"""CoNLL columns: the format of shared tasks on tagging."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minibert.files import InputError
from train.data.examples import Example
from train.data.reading import Reading
from train.data.words import between_words
from train.parse import parse_whole

COLUMN = re.compile("[^ \t]+")  # a no-break space may stand inside a word
TAG = re.compile("O|[BIESLUM]-.+")  # of entities, in any scheme

Line = tuple[int, list[str]]  # its number, and its columns


@dataclass(frozen=True)
class Columns:
    """Which columns of a file are read, counted from 0, or from the end if negative."""

    words: int
    labels: tuple[tuple[str, int], ...]


def read_conll(file: Path, reading: Reading) -> Iterator[Example]:
    """CoNLL columns: a word and its tag on each line; a blank line ends a sentence.

    The tag is the last column, or the one whose values are tags of entities. A first column that
    counts the words is left out. Where a line has tabs, only tabs separate. `reading` may name the
    columns, as words=1, tags=4.
    """
    sentences = list(_sentences(file, reading))
    chosen = _chosen(sentences, file, reading)
    found = []
    for sentence in sentences:
        where = f"{file}, line {sentence[0][0]}"
        words = tuple(columns[chosen.words] for _, columns in sentence)
        labels = {name: tuple(c[i] for _, c in sentence) for name, i in chosen.labels}
        found.append((words, labels, where))
    between = between_words([words for words, _, _ in found])
    for words, labels, where in found:
        yield Example(between.join(words), labels, where, words)


def _sentences(file: Path, reading: Reading) -> Iterator[list[Line]]:
    lines = [(i, _columns(line)) for i, line in enumerate(reading.lines(file), start=1)]
    others = [columns for _, columns in lines if columns and not columns[0].startswith("#")]
    tags, widths = {columns[-1] for columns in others}, set(map(len, others))
    sentence: list[Line] = []
    comments = 0
    for i, columns in [*lines, (0, [])]:
        if (
            columns
            and columns[0].startswith("#")
            and _is_comment(columns, tags, widths, bool(sentence))
        ):
            comments += 1
        elif columns and columns[0] != "-DOCSTART-":
            if len(columns) < 2 or not columns[0]:
                line = "\t".join(columns)
                raise InputError(
                    f"{file}, line {i}: {line!r} has no "
                    f"{'tag' if columns[0] else 'word'}; a line is a word, and its tag last"
                )
            sentence.append((i, columns))
        elif sentence:
            yield sentence
            sentence = []
    if comments:
        reading.announce(f"{file}: {comments} comment lines (# ...) are left out")


def _columns(line: str) -> list[str]:
    if "\t" in line.strip(" "):
        columns = [column.strip(" ") for column in line.rstrip(" \t\r").split("\t")]
        return columns if any(columns) else []
    return COLUMN.findall(line) if line.strip() else []


def _is_comment(
    columns: Sequence[str], tags: Collection[str], widths: Collection[int], is_inside: bool
) -> bool:
    """Whether a line that begins with "#" is a comment: its number of columns, or its tag, is that
    of no other line. tags, widths: of the other lines."""
    if columns[0] == "#" and columns[-1] not in tags:
        return True
    is_odd = len(columns) not in widths
    return is_odd and (columns[0] == "#" or not is_inside)


def _chosen(sentences: Sequence[Sequence[Line]], file: Path, reading: Reading) -> Columns:
    """Which columns are the words and the tags."""
    lines = [columns for sentence in sentences for _, columns in sentence]
    width = min(map(len, lines), default=2)
    if reading.columns:
        named = dict(reading.columns)
        if "text" in named:
            raise InputError(
                f"columns: text={named['text']}: {file} has words in columns; say words="
                f"{named['text']}"
            )
        for name, number in named.items():
            if not 0 < (parse_whole(number) or 0) <= width:
                raise InputError(
                    f"columns: {name}={number}: {file} has no such column; its columns are "
                    f"numbered from 1 to {width}"
                )
        reading.seen.update(named.values())
        words = int(named.pop("words", "1")) - 1
        return Columns(words, tuple((name, int(number) - 1) for name, number in named.items()))
    first = 0
    if width > 2 and _counts_words(sentences):
        reading.announce("the first column counts the words, and is not read")
        first = 1
    if len(set(map(len, lines))) > 1:  # then only the ends of a line can be relied on
        return Columns(first, (("tags", -1),))
    tags = [i for i in range(first, width) if all(TAG.fullmatch(columns[i]) for columns in lines)]
    tag = tags[-1] if tags else width - 1
    if len(tags) > 1 and lines:
        shown = " and ".join(str(i + 1) for i in tags)
        reading.announce(
            f"columns {shown} hold tags; column {tag + 1} is read. To read others, name all: "
            f'--columns "words={first + 1}, tags={tags[0] + 1}"'
        )
    words = next(i for i in range(first, width) if i != tag)
    if tag != width - 1 or words != first:
        reading.announce(f"column {words + 1} is read as the words, column {tag + 1} as the tags")
    return Columns(words, (("tags", tag),))


def _counts_words(sentences: Sequence[Sequence[Line]]) -> bool:
    """Whether the first column is 1, 2, 3 ... (or 0, 1, 2 ...) in every sentence."""
    return any(len(sentence) > 1 for sentence in sentences) and any(
        all(
            columns[0] == str(i)
            for sentence in sentences
            for i, (_, columns) in enumerate(sentence, start=start)
        )
        for start in (0, 1)
    )
