"""TweetEval's folders (Barbieri et al. 2020)."""

from collections.abc import Iterator
from pathlib import Path

from minibert.files import InputError
from train.data.examples import Example
from train.data.reading import Reading


def read_tweeteval(folder: Path, split: str, reading: Reading) -> Iterator[Example]:
    """SPLIT_text.txt, SPLIT_labels.txt with a number a line, and mapping.txt with the numbers'
    names. The task has the folder's name."""
    mapping = folder / "mapping.txt"
    names: dict[str, str] = {}
    for i, line in enumerate(reading.lines(mapping), start=1):
        number, _, name = line.strip().partition("\t")
        if not name:
            raise InputError(f"{mapping}, line {i}: {line!r} should read number, tab, name")
        names[number] = name
    text_file, label_file = folder / f"{split}_text.txt", folder / f"{split}_labels.txt"
    texts, labels = reading.lines(text_file), reading.lines(label_file)
    if len(texts) != len(labels):
        raise InputError(
            f"{folder}: files of unequal length: {text_file.name} has {len(texts)} lines, "
            f"{label_file.name} {len(labels)}"
        )
    task = folder.resolve().name
    for i, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        if label.strip() not in names:
            raise InputError(f"{label_file}, line {i}: {label!r} is no number of mapping.txt")
        if not text.strip():
            raise InputError(f"{text_file}, line {i}: a blank text")
        yield Example(text.strip(), {task: names[label.strip()]}, f"{text_file}, line {i}")
