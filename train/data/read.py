"""A data folder, file or Hub name -> examples. The format is recognised by the files.

A new format is one file beside this one, and one entry in FILE_READERS.
"""

import os
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

from minibert.files import InputError
from train.data.columns import settle
from train.data.conll import read_conll
from train.data.examples import SPLITS, Example
from train.data.hub import read_hub
from train.data.jsonl import read_json_lines
from train.data.snips import read_snips
from train.data.squad import read_squad
from train.data.tables import read_table
from train.data.tweeteval import read_tweeteval

OURS = Path(__file__).parents[1] / "datasets"  # the project's own: "newsroom" and others
FILE_READERS: dict[str, Callable[[Path], Iterable[Example]]] = {
    ".conll": read_conll,
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": read_json_lines,
    ".json": read_squad,
}


def read_source(name: str, scores: Collection[str] = ()) -> tuple[dict[str, list[Example]], str]:
    """The splits of one `--data`, and the source's own name.

    name: a folder in any of the formats, or a file, which is all train; one of the project's own
    data sets ("newsroom"); or hub:OWNER/NAME[/CONFIG]. scores: fields whose whole numbers are
    scores, even if none of them has a decimal point. Raises InputError, naming file and line, for
    what cannot be read.
    """
    if name.startswith("hub:"):
        return settle(read_hub(name.removeprefix("hub:")), scores), name.rpartition("/")[2]
    ours = {folder.name: folder for folder in OURS.iterdir() if folder.is_dir()}
    path = ours.get(name, Path(os.path.expanduser(name)))
    if not os.path.exists(path):
        raise InputError(
            f"--data {name}: there is no such file or folder; the project's own data sets are "
            f"{', '.join(sorted(ours))}"
        )
    if not path.is_file():
        return settle(read_folder(path), scores), path.resolve().name
    reader = FILE_READERS.get(path.suffix)
    if reader is None:
        raise InputError(f"{path}: of a file, only {', '.join(FILE_READERS)} can be read")
    return settle({"train": list(reader(path))}, scores), path.resolve().stem


def read_folder(path: Path) -> dict[str, list[Example]]:
    """The splits of a folder. Raises InputError, naming file and line, for what cannot be read; and
    for two files that could be the same split."""
    splits = {}
    for split, names in SPLITS.items():
        found = [reader for name in names for reader in _readers(path, name)]
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


def _readers(path: Path, name: str) -> list[tuple[str, Callable[[], Iterable[Example]]]]:
    """Each file of a folder that could be the split of this name, and how to read it."""
    found: list[tuple[str, Callable[[], Iterable[Example]]]] = []
    if (path / name / "seq.in").exists():
        found.append((f"{name}/seq.in", partial(read_snips, path / name)))
    if (path / f"{name}_text.txt").exists():
        found.append((f"{name}_text.txt", partial(read_tweeteval, path, name)))
    for suffix, reader in FILE_READERS.items():
        if (file := path / f"{name}{suffix}").exists():
            found.append((file.name, partial(reader, file)))
    return found
