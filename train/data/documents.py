"""Plain text files -> documents, read as a stream: a file may be larger than memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minibert.files import InputError
from train.data.examples import SPLITS


class Line(NamedTuple):
    """A line of text with words in it."""

    text: str
    number: int  # in its file, counted from 1
    is_first: bool  # of its document


def text_files(source: Path) -> dict[str, list[Path]]:
    """The files of each split: a single file is all train; in a folder they have the splits' names,
    or else all of its .txt files are train. Raises InputError if there are none."""
    if source.is_file():
        return {"train": [source]}
    if not source.is_dir():
        raise InputError(f"--text {source}: there is no such file or folder")
    found = {
        split: [file for name in names if (file := source / f"{name}.txt").is_file()]
        for split, names in SPLITS.items()
    }
    if not found["train"]:
        found["train"] = sorted(set(source.glob("*.txt")) - {*found["dev"], *found["test"]})
    if not found["train"]:
        raise InputError(f"--text {source}: the folder has no .txt file to learn from")
    return {split: files for split, files in found.items() if files}


def read_lines(file: Path, documents: str, encoding: str) -> Iterator[Line]:
    """The lines of a file that are not blank, and where a document begins.

    documents: as `settings.documents`. Raises InputError, naming file and line, for what is not
    text of the encoding.
    """
    begins, number = True, 0
    try:
        with file.open(encoding=encoding) as stream:
            for number, line in enumerate(stream, start=1):
                text = (line.removeprefix("\ufeff") if number == 1 else line).strip()
                if text:
                    yield Line(text, number, begins)
                    begins = documents == "lines"
                elif documents == "blocks":
                    begins = True
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except LookupError as error:
        raise InputError(f"encoding = {encoding!r}: there is no such encoding") from error
    except UnicodeError as error:
        raise InputError(
            f"{file}: not {encoding} text, after line {number} ({error}); if it is of another "
            "encoding, say which, as in --encoding cp1252"
        ) from error
