"""SNIPS and ATIS, as the literature on intents and slots distributes them."""

from collections.abc import Iterator
from pathlib import Path

from minibert.files import InputError
from train.data.conll import COLUMN
from train.data.examples import Example
from train.data.reading import Reading


def read_snips(folder: Path, reading: Reading) -> Iterator[Example]:
    """Three files with a sentence a line: seq.in (words), seq.out (tags), label (intent)."""
    sentences, tag_lines, labels = (
        reading.lines(folder / name) for name in ("seq.in", "seq.out", "label")
    )
    if not len(sentences) == len(tag_lines) == len(labels):
        raise InputError(
            f"{folder}: files of unequal length: seq.in has {len(sentences)} lines, "
            f"seq.out {len(tag_lines)}, label {len(labels)}"
        )
    lines = zip(sentences, tag_lines, labels, strict=True)
    for i, (sentence, tag_line, label) in enumerate(lines, start=1):
        words, tags = tuple(COLUMN.findall(sentence)), tuple(COLUMN.findall(tag_line))
        where = f"{folder / 'seq.in'}, line {i}"
        if len(words) != len(tags):
            raise InputError(f"{where}: {len(words)} words, but {len(tags)} tags in seq.out")
        if not words or not label.strip():
            raise InputError(f"{where}: a sentence without {'a label' if words else 'words'}")
        yield Example(" ".join(words), {"intent": label.strip(), "slots": tags}, where, words)
