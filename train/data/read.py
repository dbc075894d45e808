"""A data folder, file or Hub name -> examples. The format is recognised by the files.

A new format is one file beside this one, and one entry in FILE_READERS.
"""

import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from minibert.files import InputError
from train.data.beir import FILES as COLLECTION
from train.data.beir import read_beir
from train.data.conll import read_conll
from train.data.conllu import read_conllu
from train.data.examples import SPLITS, DataSet, Example
from train.data.hub import read_hub
from train.data.jsonl import read_json, read_json_lines
from train.data.lines import read_text_file
from train.data.reading import Reading
from train.data.several import join_columns
from train.data.snips import read_snips
from train.data.tables import read_table
from train.data.tweeteval import read_tweeteval

OURS = Path(__file__).parents[1] / "datasets"  # the project's own: "newsroom" and others
FILE_READERS: dict[str, Callable[[Path, Reading], Iterable[Example]]] = {
    ".conll": read_conll,
    ".conllu": read_conllu,
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".txt": read_text_file,
}
# the files of a split, NAME standing for its names; some benchmarks have their own
STEMS = (
    "NAME",
    "sts-NAME",
    "SICK_NAME",
    "SICK_NAME_annotated",
    "NAME_matched",
    "NAME-v1.1",  # SQuAD's
    "NAME-v2.0",
)
OLDER = "msr_paraphrase_NAME"  # what the GLUE script leaves beside the files that it makes of it
SICK_DEV = "SICK_trial"
TREEBANK = "*-ud-NAME.conllu"  # as Universal Dependencies names them
NAMES_FILES = ("labels.txt", "label_names.txt", "emotions.txt")


def read_source(source: str, reading: Reading | None = None) -> DataSet:
    """The splits of one `--data`, as its files have them; `settle` has to follow.

    source: a folder in any of the formats, or a file, which is all train; one of the project's own
    data sets ("newsroom"); or hub:OWNER/NAME[/CONFIG]. NAME=SOURCE gives it a name.

    No file names another, so nothing outside of a folder is read but by its links. These are
    followed, as people link to large data. Raises InputError, naming file and line, for what cannot
    be read.
    """
    reading = reading or Reading()
    return join_columns(_as_it_is(source, reading), reading)


def _as_it_is(source: str, reading: Reading) -> DataSet:
    given, name = name_of(source)
    if name.startswith("hub:"):
        splits = read_hub(name.removeprefix("hub:"), reading)
        return DataSet(given or name.rpartition("/")[2], splits)
    ours = {folder.name: folder for folder in OURS.iterdir() if folder.is_dir()}
    path = ours.get(name, Path(os.path.expanduser(name)))
    if not os.path.exists(path):
        raise InputError(
            f"--data {name}: there is no such file or folder; the project's own data sets are "
            f"{', '.join(sorted(ours))}"
        )
    if all((path / name).is_file() for name in COLLECTION):
        return DataSet(given or path.resolve().name, read_beir(path, reading))
    if not path.is_file():
        return DataSet(given or path.resolve().name, read_folder(path, reading), _names(path))
    reader = FILE_READERS.get(path.suffix)
    if reader is None:
        raise InputError(f"{path}: of a file, only {', '.join(FILE_READERS)} can be read")
    splits = {"train": list(reader(path, reading))}
    return DataSet(given or path.resolve().stem, splits, _names(path.parent))


def name_of(source: str) -> tuple[str | None, str]:
    """The name that the user gives to a `--data` as NAME=SOURCE, if there is one, and the source.
    Raises InputError for a name that no task's name can begin with."""
    name, equals, rest = source.partition("=")
    if not equals or os.path.exists(source) or "/" in name or ":" in name:
        return None, source
    if not re.fullmatch(r"\w[\w-]*", name) or not rest:
        raise InputError(
            f"--data {source}: should read NAME=PATH, the name of letters, digits, _ and -"
        )
    return name, rest


def read_folder(path: Path, reading: Reading) -> dict[str, list[Example]]:
    """The splits of a folder. Raises InputError, naming file and line, for what cannot be read; and
    for two files that could be the same split."""
    splits = {}
    for split, names in SPLITS.items():
        found = [reader for name in names for reader in _readers(path, name, reading)]
        if split == "dev":
            found += _files(path, SICK_DEV, reading)
        if not found:
            found = [
                f for name in names for f in _files(path, OLDER.replace("NAME", name), reading)
            ]
        if len(found) > 1:
            files = " and ".join(file for file, _ in found)
            raise InputError(f"{path}: {files} are all there; which one is {split}?")
        for _, read in found:
            splits[split] = list(read())
    if not splits:
        raise InputError(
            f"{path} has no data that is recognised. A split NAME (train, dev or val, test) is "
            "NAME/seq.in with seq.out and label, or NAME_text.txt with NAME_labels.txt, or one of "
            f"{', '.join('NAME' + suffix for suffix in FILE_READERS)}"
        )
    return splits


Found = tuple[str, Callable[[], Iterable[Example]]]  # a file's name, and what reads it


def _readers(path: Path, name: str, reading: Reading) -> list[Found]:
    """Each file of a folder that could be the split of this name, and how to read it."""
    found: list[Found] = []
    if (path / name / "seq.in").exists():
        found.append((f"{name}/seq.in", partial(read_snips, path / name, reading)))
    if (path / f"{name}_text.txt").exists():
        found.append((f"{name}_text.txt", partial(read_tweeteval, path, name, reading)))
    for stem in STEMS:
        found += _files(path, stem.replace("NAME", name), reading)
    if name in ("train", "dev", "test"):
        for file in sorted(path.glob(TREEBANK.replace("NAME", name))):
            found.append((file.name, partial(read_conllu, file, reading)))
    return found


def _files(path: Path, stem: str, reading: Reading) -> list[Found]:
    return [
        (file.name, partial(reader, file, reading))
        for suffix, reader in FILE_READERS.items()
        if (file := path / f"{stem}{suffix}").exists()
    ]


def _names(folder: Path) -> tuple[str, ...]:
    """The names of labels that stand beside the data, one a line; none if there is no such file."""
    for file in (folder / name for name in NAMES_FILES):
        if file.is_file():
            names = tuple(line.strip() for line in Reading().lines(file) if line.strip())
            if len(set(names)) == len(names):  # else it holds a label for each text
                return names
    return ()
