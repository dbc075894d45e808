"""Data folders and files -> examples. A format is recognised by its files; the tasks are the labels
that it has.

A field of a table or of JSON is a score where its values are numbers and at least one has a decimal
point; whole numbers alone are the names of classes, as 0 and 1 mostly are.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minibert.files import InputError, read_lines, read_text
from train.data import BIO, DataSet, Example, Label

SPLITS = {"train": ("train",), "dev": ("dev", "val", "valid", "validation"), "test": ("test",)}
OURS = Path(__file__).parent / "datasets"  # the project's own data sets: "newsroom" and others
# How a text with character spans, or a text to predict, is split into words; accents that are
# characters of their own belong to the letter before them.
WORD = re.compile(r"[\w\u0300-\u036f]+|[^\w\s]")
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,15}")  # "007" is none: it may be a name
FRACTION = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
DEV_SHARE = 0.1
TEXT_KEYS = ("text", "words", "text_a", "text_b")


def load_data(name: str, seed: int, announce: Callable[[str], None] = print) -> DataSet:
    """The examples of one `--data`: whatever `read_source` reads, with a train and a dev split,
    none of them empty.

    A missing dev split is cut from train, and `announce` says so; so it does of repaired tags.
    Raises InputError, naming file and line, for what cannot be read or makes no sense.
    """
    splits, source = read_source(name)
    splits = {
        split: repair_tags(examples, f"{name}, {split}", announce)
        for split, examples in splits.items()
    }
    for split, examples in splits.items():
        if not examples:
            raise InputError(f"--data {name}: its {split} split is empty")
    if "train" not in splits:
        raise InputError(f"--data {name}: no train split; it has {', '.join(splits)}")
    if "dev" not in splits:
        whole = splits["train"]
        splits["train"], splits["dev"] = cut_dev(whole, seed)
        size = len(splits["dev"])
        if not size:
            raise InputError(
                f"--data {name}: there is no dev split, and none can be cut from train: it has {len(whole)} examples, "
                f"and each of them is the last with one of its labels. Give more, or a dev split"
            )
        announce(
            f"{name}: no dev split, so {size} of the {len(whole)} train examples are cut off for it (seed {seed})"
        )
    return DataSet(source, splits)


def cut_dev(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Train without a tenth of it, chosen at random, and that tenth. A label's last example stays
    in train."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    left = Counter(label for example in examples for label in _labels_of(example))
    size = min(max(1, round(len(order) * DEV_SHARE)), len(order) - 1)
    dev: set[int] = set()
    for i in order:
        labels = _labels_of(examples[i])
        if len(dev) < size and all(left[label] > 1 for label in labels):
            left.subtract(labels)
            dev.add(i)
    return [e for i, e in enumerate(examples) if i not in dev], [
        e for i, e in enumerate(examples) if i in dev
    ]


def _labels_of(example: Example) -> set[tuple[str, str]]:
    """The classes and entity types of an example, each with its field's name."""
    found = {(name, label) for name, label in example.labels.items() if isinstance(label, str)}
    tags = {name: label for name, label in example.labels.items() if isinstance(label, tuple)}
    return found | {(name, tag[2:]) for name, label in tags.items() for tag in label if tag != "O"}


def read_source(name: str, scores: Collection[str] = ()) -> tuple[dict[str, list[Example]], str]:
    """The splits of a folder or file in any of the formats, of one of the project's own data sets
    ("newsroom"), or of hub:OWNER/NAME[/CONFIG]; and the source's own name. Raises InputError if
    there is none, or as `read_folder`."""
    if name.startswith("hub:"):
        return read_hub(name.removeprefix("hub:"), scores), name.rpartition("/")[2]
    ours = {folder.name: folder for folder in OURS.iterdir() if folder.is_dir()}
    path = ours.get(name, Path(os.path.expanduser(name)))
    if not os.path.exists(path):
        raise InputError(
            f"--data {name}: there is no such file or folder; the project's own data sets are {', '.join(sorted(ours))}"
        )
    return read_folder(path, scores), path.resolve().stem if path.is_file() else path.resolve().name


def read_folder(path: Path, scores: Collection[str] = ()) -> dict[str, list[Example]]:
    """The splits of a folder, or of a single file, which is all train.

    scores: fields whose whole numbers are scores even if none in this folder has a decimal point.
    Raises InputError, naming file and line, for what cannot be read; and for two files that could
    be the same split.
    """
    if path.is_file():
        reader = FILE_READERS.get(path.suffix)
        if reader is None:
            raise InputError(f"{path}: of a file, only {', '.join(FILE_READERS)} can be read")
        return settle_numbers({"train": list(reader(path))}, scores)
    splits = {}
    for split, names in SPLITS.items():
        found: list[tuple[str, Callable[[], Iterable[Example]]]] = []
        for name in names:
            if (path / name / "seq.in").exists():
                found.append((f"{name}/seq.in", partial(read_snips, path / name)))
            if (path / f"{name}_text.txt").exists():
                found.append((f"{name}_text.txt", partial(read_tweeteval, path, name)))
            for suffix, reader in FILE_READERS.items():
                if (file := path / f"{name}{suffix}").exists():
                    found.append((file.name, partial(reader, file)))
        if len(found) > 1:
            raise InputError(
                f"{path}: {' and '.join(file for file, _ in found)} are all there; which one is {split}?"
            )
        for _, read in found:
            splits[split] = list(read())
    if not splits:
        raise InputError(
            f"{path} has no data that is recognised. A split NAME (train, dev or val, test) is NAME/seq.in with "
            f"seq.out and label, or NAME_text.txt with NAME_labels.txt, or one of "
            f"{', '.join('NAME' + suffix for suffix in FILE_READERS)}"
        )
    return settle_numbers(splits, scores)


def read_snips(folder: Path) -> Iterator[Example]:
    """SNIPS and ATIS as in the literature: seq.in (words), seq.out (tags), label (intent), one
    sentence a line."""
    sentences, tag_lines, labels = (
        read_lines(folder / name) for name in ("seq.in", "seq.out", "label")
    )
    if not len(sentences) == len(tag_lines) == len(labels):
        raise InputError(
            f"{folder}: files of unequal length: seq.in has {len(sentences)} lines, seq.out {len(tag_lines)}, "
            f"label {len(labels)}"
        )
    file = folder / "seq.in"
    for i, (sentence, tag_line, label) in enumerate(
        zip(sentences, tag_lines, labels, strict=True), start=1
    ):
        words, tags, where = (
            tuple(_columns(sentence)),
            tuple(_columns(tag_line)),
            f"{file}, line {i}",
        )
        if len(words) != len(tags):
            raise InputError(f"{where}: {len(words)} words, but {len(tags)} tags in seq.out")
        if not words or not label.strip():
            raise InputError(f"{where}: a sentence without {'a label' if words else 'words'}")
        yield Example(" ".join(words), {"intent": label.strip(), "slots": tags}, where, words)


def read_tweeteval(folder: Path, split: str) -> Iterator[Example]:
    """TweetEval: SPLIT_text.txt, SPLIT_labels.txt with a number a line, mapping.txt with the
    numbers' names."""
    names: dict[str, str] = {}
    for i, line in enumerate(read_lines(folder / "mapping.txt"), start=1):
        number, _, name = line.strip().partition("\t")
        if not name:
            raise InputError(
                f"{folder / 'mapping.txt'}, line {i}: {line!r} should read number, tab, name"
            )
        names[number] = name
    texts, labels = (
        read_lines(folder / f"{split}_text.txt"),
        read_lines(folder / f"{split}_labels.txt"),
    )
    if len(texts) != len(labels):
        raise InputError(
            f"{folder}: files of unequal length: {split}_text.txt has {len(texts)} lines, "
            f"{split}_labels.txt {len(labels)}"
        )
    task, file = folder.resolve().name, folder / f"{split}_text.txt"
    for i, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        if label.strip() not in names:
            raise InputError(
                f"{folder / f'{split}_labels.txt'}, line {i}: {label!r} is no number of mapping.txt"
            )
        if not text.strip():
            raise InputError(f"{file}, line {i}: a blank text")
        yield Example(text.strip(), {task: names[label.strip()]}, f"{file}, line {i}")


def read_conll(file: Path) -> Iterator[Example]:
    """CoNLL columns: a word first and its tag last on each line; a blank line ends a sentence."""
    words: list[str] = []
    tags: list[str] = []
    first = 1
    for i, line in enumerate([*read_lines(file), ""], start=1):
        columns = _columns(line)
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
            yield Example(
                " ".join(words), {"tags": tuple(tags)}, f"{file}, line {first}", tuple(words)
            )
            words, tags = [], []


def read_table(file: Path) -> Iterator[Example]:
    """CSV or TSV with a header: a column text (or text_a and text_b), every other column a label.

    A column without a name, such as the row numbers that pandas writes, is left out.
    """
    # "": a quoted text keeps its line ends
    stream = io.StringIO(read_text(file).removeprefix("\ufeff"), newline="")
    rows = csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if not header:
            raise InputError(f"{file}, line 1: there must be the names of the columns")
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            raise InputError(
                f"{file}, line 1: the column {twice[0]!r} stands twice in {', '.join(header)}"
            )
        if "text" not in header and not {"text_a", "text_b"} <= set(header):
            raise InputError(
                f"{file}, line 1: no column text (or text_a and text_b); it has {', '.join(header)}"
            )
        first = rows.line_num + 1  # of the next row, which may have several
        for row in rows:
            where, first = f"{file}, line {first}", rows.line_num + 1
            if row:
                if len(row) != len(header):
                    raise InputError(
                        f"{where}: {len(row)} values, but {len(header)} columns in the header"
                    )
                cells = {
                    n: cell if n in TEXT_KEYS else _value(cell)
                    for n, cell in zip(header, row, strict=True)
                    if n
                }
                yield from_fields(cells, where)
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num}: {error}") from error


def _value(cell: str) -> str | int | float:
    """A table's cell: a number, if it reads as one and nothing of it is lost so, else a text."""
    cell = cell.strip()
    if WHOLE.fullmatch(cell):
        return int(cell)
    return float(cell) if FRACTION.fullmatch(cell) else cell


def read_json_lines(file: Path) -> Iterator[Example]:
    """JSON lines: text, words, or text_a and text_b; every other field is a label.

    A string is a sentence's label, a number a label or a score, a list of strings as long as
    `words` the words' tags, and a list of [start, end, type] the entities of `text`, in characters.
    What is null or blank is no label.
    """
    for i, line in enumerate(read_lines(file), start=1):
        where = f"{file}, line {i}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "\\u" in line:  # which can write half of a pair
                json.dumps(record, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg} at character {error.pos})") from error
        except UnicodeEncodeError as error:
            raise InputError(
                f"{where}: holds half a surrogate pair, which is no character"
            ) from error
        # a number of thousands of digits, brackets thousands deep
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON that can be read ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: must be an object with a text, not {type(record).__name__}")
        yield from_fields(record, where)


FILE_READERS: dict[str, Callable[[Path], Iterable[Example]]] = {
    ".conll": read_conll,
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": read_json_lines,
}


def read_hub(name: str, scores: Collection[str] = ()) -> dict[str, list[Example]]:
    """A data set of the Hub, OWNER/NAME or OWNER/NAME/CONFIG, or a local folder that the `datasets`
    library reads.

    Its columns are fields as in `read_json_lines`, classes by their names. Raises InputError if it
    cannot be had.
    """
    try:
        from datasets import ClassLabel, load_dataset
    except ImportError as error:
        raise InputError(
            f"hub:{name} needs the datasets library: pip install 'minibert[hub]'"
        ) from error
    path, config = (
        (name, None) if Path(name).is_dir() or name.count("/") < 2 else name.rsplit("/", 1)
    )
    try:
        loaded = load_dataset(path, config)
    except Exception as error:  # the library raises of every kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"hub:{name} cannot be loaded: {reason}") from error

    def with_names(feature: Any, value: Any) -> Any:
        """A class's number as its name; -1, as in GLUE's test splits, as no label."""
        if isinstance(feature, ClassLabel):
            return None if value in (None, -1) else feature.int2str(value)
        inner = getattr(feature, "feature", None)
        return (
            value
            if value is None or not isinstance(inner, ClassLabel)
            else [inner.int2str(v) for v in value]
        )

    renamed = {"tokens": "words", "sentence": "text", "sentence1": "text_a", "sentence2": "text_b"}
    splits = {}
    for split, names in SPLITS.items():
        found = next((loaded[n] for n in names if n in loaded), None)
        if found is None:
            continue
        splits[split] = [
            from_fields(
                {
                    renamed.get(key, key): with_names(found.features[key], value)
                    for key, value in row.items()
                },
                f"hub:{name}, {split}, row {i}",
            )
            for i, row in enumerate(found)
        ]
    return settle_numbers(splits, scores)


def from_fields(record: Mapping[str, Any], where: str) -> Example:
    """An example from named fields, as `read_json_lines` describes them. Raises InputError, naming
    the field."""
    record = {name: value for name, value in record.items() if value is not None}
    if not ("text" in record or "words" in record or {"text_a", "text_b"} <= record.keys()):
        raise InputError(
            f"{where}: needs text, or words, or text_a and text_b; it has {', '.join(record) or 'nothing'}"
        )
    words = given = record.get("words")
    if given is not None and (
        not isinstance(given, list)
        or not given
        or not all(isinstance(w, str) and w.strip() for w in given)
    ):
        raise InputError(f"{where}: words must be a list of texts, none of them blank")
    text = record["text_a"] if "text_a" in record else record.get("text", " ".join(given or ()))
    second = record.get("text_b")
    for part in (text, second) if "text_b" in record else (text,):
        if not isinstance(part, str) or not part.strip():
            raise InputError(f"{where}: a text must be a string that is not blank, not {part!r}")
    labels: dict[str, Label] = {}
    for name, value in record.items():
        if name in TEXT_KEYS or name == "id" or (isinstance(value, str) and not value.strip()):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float | list):
            raise InputError(
                f"{where}: {name} = {value!r} is no label: a string, a number or a list is one"
            )
        if isinstance(value, str):
            labels[name] = value.strip()
        elif not isinstance(value, list):
            if not abs(value) < 1e300:  # NaN too
                raise InputError(f"{where}: {name} = {value!r:.40} is not a finite number")
            labels[name] = value
        elif all(isinstance(tag, str) for tag in value) and (value or "text" not in record):
            if given is None:
                raise InputError(
                    f"{where}: {name} is a list of texts; tags need words beside them, as many"
                )
            if len(value) != len(given):
                raise InputError(f"{where}: {name} has {len(value)} tags for {len(given)} words")
            labels[name] = tuple(value)
        elif "text" not in record:
            raise InputError(
                f"{where}: {name} holds spans, which count characters of a text; here is no field text"
            )
        else:
            places = (
                locate(given, text, where)
                if given
                else [match.span() for match in WORD.finditer(text)]
            )
            words = [text[start:end] for start, end in places]
            labels[name] = span_tags(text, places, value, where, name)
    return Example(text, labels, where, tuple(words) if words is not None else None, second)


def settle_numbers(
    splits: Mapping[str, Sequence[Example]], scores: Collection[str] = ()
) -> dict[str, list[Example]]:
    """Turn whole numbers into scores, in fields that have others too and in `scores`; else into
    names of classes."""
    fields = [
        item
        for examples in splits.values()
        for example in examples
        for item in example.labels.items()
    ]
    fractions = {*scores, *(name for name, label in fields if isinstance(label, float))}

    def settled(name: str, label: Label) -> Label:
        if not isinstance(label, int):
            return label
        return float(label) if name in fractions else str(label)

    return {
        split: [
            replace(e, labels={name: settled(name, label) for name, label in e.labels.items()})
            for e in examples
        ]
        for split, examples in splits.items()
    }


def locate(words: Sequence[str], text: str, where: str) -> list[tuple[int, int]]:
    """Where words stand in their text, (start, end) in characters. Raises InputError for one that
    does not."""
    places: list[tuple[int, int]] = []
    for word in words:
        end = places[-1][1] if places else 0
        start = text.find(word, end)
        if start < 0:
            raise InputError(
                f"{where}: the word {word!r} does not stand in the text after character {end}"
            )
        places.append((start, start + len(word)))
    return places


def span_tags(
    text: str, words: Sequence[tuple[int, int]], spans: Sequence, where: str, name: str
) -> tuple[str, ...]:
    """BIO tags of words (start, end) from entities [start, end, type], all in characters of the
    text."""
    tags = ["O"] * len(words)
    for span in spans:
        if not (
            isinstance(span, list)
            and [type(x) for x in span] == [int, int, str]
            and span[2].strip()
        ):
            raise InputError(f"{where}: {name} has {span!r}, which should read [start, end, type]")
        start, end, kind = span
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"{where}: {name} has {span!r}, which is no part of a text of {len(text)} characters"
            )
        covered = [i for i, (s, e) in enumerate(words) if s < end and e > start]
        if not covered or words[covered[0]][0] != start or words[covered[-1]][1] != end:
            raise InputError(
                f"{where}: {name} has {span!r}, {text[start:end]!r}: it must begin and end where words do"
            )
        if any(tags[i] != "O" for i in covered):
            raise InputError(
                f"{where}: {name} has {span!r}, {text[start:end]!r}, which overlaps another entity"
            )
        for i in covered:
            tags[i] = f"I-{kind}"
        tags[covered[0]] = f"B-{kind}"
    return tuple(tags)


def repair_tags(
    examples: Sequence[Example], source: str, announce: Callable[[str], None]
) -> list[Example]:
    """Turn every I- that continues nothing of its type into the B- that it means, and say how many
    there were.

    Tags that are not BIO at all (parts of speech, say) stay as they are; `build_tasks` refuses to
    learn them.
    """
    repaired: Counter[str] = Counter()
    result = []
    for example in examples:
        labels = dict(example.labels)
        for name, tags in example.labels.items():
            if isinstance(tags, tuple) and all(map(BIO.fullmatch, tags)):
                labels[name] = fixed = tuple(_repaired(tags))
                repaired[name] += sum(old != new for old, new in zip(tags, fixed, strict=True))
        result.append(replace(example, labels=labels) if labels != example.labels else example)
    for name, count in repaired.items():
        if count:
            announce(f"{source}: {count} {name} tags I- that continued nothing were read as B-")
    return result


def _repaired(tags: Sequence[str]) -> Iterator[str]:
    previous = "O"
    for tag in tags:
        if tag.startswith("I-") and previous[2:] != tag[2:]:
            tag = "B-" + tag[2:]
        yield tag
        previous = tag


def _columns(line: str) -> list[str]:
    """The columns of a line, at spaces and tabs only: a no-break space may stand inside a word."""
    return [column for column in re.split("[ \t]+", line) if column]
