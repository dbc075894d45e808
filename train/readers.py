"""Data folders and files -> examples. A format is recognised by its files; the tasks are the labels that it has."""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minibert.files import InputError, read_text
from train.data import DataSet, Example, Label

SPLITS = {"train": ("train",), "dev": ("dev", "val", "valid", "validation"), "test": ("test",)}
NEWSROOM = Path(__file__).parent / "datasets" / "newsroom"
WORD = re.compile(r"\w+|[^\w\s]")  # how a text with character spans, or a text to predict, is split into words
DEV_SHARE = 0.1
TEXT_KEYS = ("text", "words", "text_a", "text_b")


def load_data(name: str, seed: int, announce: Callable[[str], None] = print) -> DataSet:
    """The examples of one `--data`: a folder or file in any of the formats, "newsroom", or hub:OWNER/NAME[/CONFIG].

    A missing dev split is cut from train, and `announce` says so; so it does of repaired tags.
    Raises InputError, naming file and line, for what cannot be read or makes no sense.
    """
    if name.startswith("hub:"):
        splits, source = read_hub(name.removeprefix("hub:")), name.rpartition("/")[2]
    else:
        folder = NEWSROOM if name == "newsroom" else Path(name).expanduser()
        if not folder.exists():
            raise InputError(f"--data {name}: there is no such file or folder (the project's own data set is newsroom)")
        splits, source = read_folder(folder), folder.resolve().stem if folder.is_file() else folder.resolve().name
    splits = {split: repair_tags(examples, f"{name}, {split}", announce) for split, examples in splits.items()}
    for split, examples in splits.items():
        if not examples:
            raise InputError(f"--data {name}: its {split} split is empty")
    if "train" not in splits:
        raise InputError(f"--data {name}: no train split")
    if "dev" not in splits:
        order = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(seed)).tolist()
        size = max(1, round(len(order) * DEV_SHARE))
        if size >= len(order):
            raise InputError(f"--data {name}: one example is too few to cut a dev split from")
        dev = set(order[:size])
        train = splits["train"]
        splits["dev"] = [example for i, example in enumerate(train) if i in dev]
        splits["train"] = [example for i, example in enumerate(train) if i not in dev]
        announce(f"{name}: no dev split, so {size} of the {len(order)} train examples are cut off for it (seed {seed})")
    return DataSet(source, splits)


def read_folder(path: Path) -> dict[str, list[Example]]:
    """The splits of a folder, or of a single file, which is all train."""
    if path.is_file():
        reader = FILE_READERS.get(path.suffix)
        if reader is None:
            raise InputError(f"{path}: of a file, only {', '.join(FILE_READERS)} can be read")
        return {"train": list(reader(path))}
    splits = {}
    for split, names in SPLITS.items():
        for name in names:
            if (path / name / "seq.in").exists():
                splits[split] = list(read_snips(path / name))
            elif (path / f"{name}_text.txt").exists():
                splits[split] = list(read_tweeteval(path, name))
            elif files := [file for suffix in FILE_READERS if (file := path / f"{name}{suffix}").exists()]:
                if len(files) > 1:
                    raise InputError(f"{path}: both {files[0].name} and {files[1].name}; which one is {split}?")
                splits[split] = list(FILE_READERS[files[0].suffix](files[0]))
            if split in splits:
                break
    if not splits:
        raise InputError(
            f"{path} has no data that is recognised. A split NAME (train, dev or val, test) is NAME/seq.in with "
            f"seq.out and label, or NAME_text.txt with NAME_labels.txt, or one of "
            f"{', '.join('NAME' + suffix for suffix in FILE_READERS)}"
        )
    return splits


def read_snips(folder: Path) -> Iterator[Example]:
    """SNIPS and ATIS as in the literature: seq.in (words), seq.out (tags), label (intent), one sentence a line."""
    sentences, tag_lines, labels = (read_lines(folder / name) for name in ("seq.in", "seq.out", "label"))
    if not len(sentences) == len(tag_lines) == len(labels):
        raise InputError(
            f"{folder}: files of unequal length: seq.in has {len(sentences)} lines, seq.out {len(tag_lines)}, "
            f"label {len(labels)}"
        )
    for i, (sentence, tag_line, label) in enumerate(zip(sentences, tag_lines, labels, strict=True), start=1):
        words, tags, where = tuple(sentence.split()), tuple(tag_line.split()), f"{folder / 'seq.in'}, line {i}"
        if len(words) != len(tags):
            raise InputError(f"{where}: {len(words)} words, but {len(tags)} tags in seq.out")
        if not words or not label.strip():
            raise InputError(f"{where}: a sentence without {'a label' if words else 'words'}")
        yield Example(" ".join(words), {"intent": label.strip(), "slots": tags}, where, words)


def read_tweeteval(folder: Path, split: str) -> Iterator[Example]:
    """TweetEval: SPLIT_text.txt, SPLIT_labels.txt with a number a line, mapping.txt with the numbers' names."""
    names: dict[str, str] = {}
    for i, line in enumerate(read_lines(folder / "mapping.txt"), start=1):
        number, _, name = line.strip().partition("\t")
        if not name:
            raise InputError(f"{folder / 'mapping.txt'}, line {i}: {line!r} should read number, tab, name")
        names[number] = name
    texts, labels = read_lines(folder / f"{split}_text.txt"), read_lines(folder / f"{split}_labels.txt")
    if len(texts) != len(labels):
        raise InputError(
            f"{folder}: files of unequal length: {split}_text.txt has {len(texts)} lines, "
            f"{split}_labels.txt {len(labels)}"
        )
    for i, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        if label.strip() not in names:
            raise InputError(f"{folder / f'{split}_labels.txt'}, line {i}: {label!r} is no number of mapping.txt")
        yield Example(
            text.strip(), {folder.resolve().name: names[label.strip()]}, f"{folder / f'{split}_text.txt'}, line {i}"
        )


def read_conll(file: Path) -> Iterator[Example]:
    """CoNLL columns: a word first and its tag last on each line; a blank line ends a sentence."""
    words: list[str] = []
    tags: list[str] = []
    first = 1
    for i, line in enumerate([*read_lines(file), ""], start=1):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            if len(columns) < 2:
                raise InputError(f"{file}, line {i}: {line!r} has no tag; a line is a word, and its tag last")
            if not words:
                first = i
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            yield Example(" ".join(words), {"tags": tuple(tags)}, f"{file}, line {first}", tuple(words))
            words, tags = [], []


def read_table(file: Path) -> Iterator[Example]:
    """CSV or TSV with a header: a column text (or text_a and text_b), every other column a label."""
    text = read_text(file)
    rows = csv.reader(text.splitlines(keepends=True), delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) != len(header):
            raise InputError(f"{file}, line 1: a column stands twice in {', '.join(header)}")
        for row in rows:
            if row:
                where = f"{file}, line {rows.line_num}"
                if len(row) != len(header):
                    raise InputError(f"{where}: {len(row)} values, but {len(header)} columns in the header")
                yield from_fields(dict(zip(header, row, strict=True)), where)
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num}: {error}") from error
    if not header:
        raise InputError(f"{file} is empty; its first line must name the columns")


def read_json_lines(file: Path) -> Iterator[Example]:
    """JSON lines: text, words, or text_a and text_b; every other field is a label.

    A string is a sentence's label, a number a score, a list of strings as long as `words` the words' tags, and a
    list of [start, end, type] the entities of `text`, in characters.
    """
    for i, line in enumerate(read_lines(file), start=1):
        where = f"{file}, line {i}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg} at character {error.pos})") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: must be an object with a text, not {type(record).__name__}")
        yield from_fields(record, where)


FILE_READERS: dict[str, Callable[[Path], Iterable[Example]]] = {
    ".conll": read_conll,
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": read_json_lines,
}


def read_hub(name: str) -> dict[str, list[Example]]:
    """A data set of the Hub, OWNER/NAME or OWNER/NAME/CONFIG, or a local folder that the `datasets` library reads."""
    try:
        from datasets import ClassLabel, Sequence, load_dataset
    except ImportError as error:
        raise InputError(f"hub:{name} needs the datasets library: pip install 'minibert[hub]'") from error
    path, config = (name, None) if Path(name).is_dir() or name.count("/") < 2 else name.rsplit("/", 1)
    try:
        loaded = load_dataset(path, config)
    except Exception as error:  # the library raises of every kind
        raise InputError(f"hub:{name} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    splits = {}
    for split, names in SPLITS.items():
        found = next((loaded[n] for n in names if n in loaded), None)
        if found is None:
            continue
        examples = []
        renamed = {"tokens": "words", "sentence": "text", "sentence1": "text_a", "sentence2": "text_b"}
        for i, row in enumerate(found):
            record = {}
            for key, value in row.items():
                feature = found.features[key]
                inner = feature.feature if isinstance(feature, Sequence) else None
                if isinstance(feature, ClassLabel):
                    value = feature.int2str(value)
                elif isinstance(inner, ClassLabel):
                    value = [inner.int2str(v) for v in value]
                record[renamed.get(key, key)] = value
            examples.append(from_fields(record, f"hub:{name}, {split}, row {i}"))
        splits[split] = examples
    return splits


def from_fields(record: Mapping[str, Any], where: str) -> Example:
    """An example from named fields, as `read_json_lines` describes them. Raises InputError, naming the field."""
    if not ("text" in record or "words" in record or {"text_a", "text_b"} <= record.keys()):
        raise InputError(
            f"{where}: needs text, or words, or text_a and text_b; it has {', '.join(record) or 'nothing'}"
        )
    words = record.get("words")
    if words is not None and not (isinstance(words, list) and all(isinstance(w, str) and w.strip() for w in words)):
        raise InputError(f"{where}: words must be a list of texts, none of them blank")
    text = record["text_a"] if "text_a" in record else record.get("text", " ".join(words or ()))
    second = record.get("text_b")
    if not isinstance(text, str) or not isinstance(second, str | None) or not text.strip():
        raise InputError(f"{where}: a text must be a string that is not blank, not {text!r}")
    labels: dict[str, Label] = {}
    for name, value in record.items():
        if name in TEXT_KEYS or name == "id" or value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float | list):
            raise InputError(f"{where}: {name} = {value!r} is no label: a string, a number or a list is one")
        if not isinstance(value, list):
            labels[name] = _score_or_label(value, where, name)
        elif all(isinstance(tag, str) for tag in value) and (value or words is not None):
            if words is None or len(value) != len(words):
                raise InputError(f"{where}: {name} has {len(value)} tags for {len(words or ())} words")
            labels[name] = tuple(value)
        elif words is not None and "text" not in record:
            raise InputError(f"{where}: {name} holds spans, which count characters of a text; here are only words")
        else:
            spans = list(WORD.finditer(text))
            words = [match[0] for match in spans]
            labels[name] = span_tags(text, [match.span() for match in spans], value, where, name)
    return Example(text, labels, where, tuple(words) if words is not None else None, second)


def _score_or_label(value: str | int | float, where: str, name: str) -> str | float:
    """A JSON number, or a table's text that reads as one with a decimal point, is a score; all else is a label."""
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[-+]?\d*\.\d+([eE][-+]?\d+)?\s*", value):
            return value.strip()
        value = float(value)
    if not math.isfinite(value):
        raise InputError(f"{where}: {name} = {value} is not a finite number")
    return float(value)


def span_tags(text: str, words: Sequence[tuple[int, int]], spans: Sequence, where: str, name: str) -> tuple[str, ...]:
    """BIO tags of words (start, end) from entities [start, end, type], all in characters of the text."""
    tags = ["O"] * len(words)
    for span in spans:
        if not (isinstance(span, list) and [type(x) for x in span] == [int, int, str]):
            raise InputError(f"{where}: {name} has {span!r}, which should read [start, end, type]")
        start, end, kind = span
        if not 0 <= start < end <= len(text):
            raise InputError(f"{where}: {name} has {span!r}, outside the text of {len(text)} characters")
        covered = [i for i, (s, e) in enumerate(words) if s < end and e > start]
        if not covered or words[covered[0]][0] != start or words[covered[-1]][1] != end:
            raise InputError(f"{where}: {name} has {span!r}, {text[start:end]!r}, which cuts through a word")
        if any(tags[i] != "O" for i in covered):
            raise InputError(f"{where}: {name} has {span!r}, {text[start:end]!r}, which overlaps another entity")
        for i in covered:
            tags[i] = f"I-{kind}"
        tags[covered[0]] = f"B-{kind}"
    return tuple(tags)


def repair_tags(examples: Sequence[Example], source: str, announce: Callable[[str], None]) -> list[Example]:
    """Turn every I- that continues nothing of its type into the B- that it means, and say how many there were.

    Raises InputError, naming the line, for a tag that is not O, B-type or I-type.
    """
    repaired: Counter[str] = Counter()
    result = []
    for example in examples:
        labels = dict(example.labels)
        for name, tags in example.labels.items():
            if isinstance(tags, tuple):
                labels[name] = fixed = tuple(_bio(tags, example.where, name))
                repaired[name] += sum(old != new for old, new in zip(tags, fixed, strict=True))
        result.append(replace(example, labels=labels) if labels != example.labels else example)
    for name, count in repaired.items():
        if count:
            announce(f"{source}: {count} {name} tags I- that continued nothing were read as B-")
    return result


def _bio(tags: Sequence[str], where: str, name: str) -> Iterator[str]:
    previous = "O"
    for tag in tags:
        if tag != "O" and not re.fullmatch(r"[BI]-.+", tag):
            raise InputError(f"{where}: the {name} tag {tag!r} is not BIO: O, B-type or I-type")
        if tag.startswith("I-") and previous[2:] != tag[2:]:
            tag = "B-" + tag[2:]
        yield tag
        previous = tag


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text file, cut at line feeds only: a text may hold other separators."""
    lines = read_text(file).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
