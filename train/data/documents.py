"""Plain text files -> documents, read as a stream: a file may be larger than memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from minibert.files import InputError, check_regular
from train.data.examples import SPLITS

LONGEST = 2**18  # characters of a line that are read at once


class Line(NamedTuple):
    """A line of text with words in it, or a piece of one."""

    text: str
    number: int  # in its file, counted from 1
    is_first: bool  # of its document


def text_files(source: Path) -> dict[str, list[Path]]:
    """The files of each split that there is: a single file is all train; in a folder they have the
    splits' names, and if none is train.txt, all other .txt files are train. Raises InputError if
    there are none."""
    if source.is_file():
        return {"train": [source]}
    if not source.exists():
        raise InputError(f"--text {source}: there is no such file or folder")
    if not source.is_dir():
        raise InputError(
            f"--text {source}: this is no file on a disk. A run that is resumed reads its text "
            "again, so write it to one"
        )
    found = {
        split: [file for name in names if (file := source / f"{name}.txt").is_file()]
        for split, names in SPLITS.items()
    }
    if not found["train"]:
        found["train"] = sorted(set(source.glob("*.txt")) - {*found["dev"], *found["test"]})
    if not any(found.values()):
        raise InputError(f"--text {source}: the folder has no .txt file")
    return {split: files for split, files in found.items() if files}


def read_lines(file: Path, documents: str, encoding: str) -> Iterator[Line]:
    """The lines of a file that are not blank, and where a document begins. A very long line comes
    in pieces.

    documents: as `settings.documents`. Raises InputError, naming file and line, for what is not
    text of the encoding.
    """
    begins, number = True, 0
    check_regular(file)
    try:
        with file.open(encoding=encoding) as stream:
            for number, piece, is_first in _pieces(stream):
                if is_first and documents == "lines":
                    begins = True
                text = (piece.removeprefix("\ufeff") if number == 1 else piece).strip()
                text.encode()  # utf-7 and others can write half of a surrogate pair
                if text:
                    yield Line(text, number, begins)
                    begins = False
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


def _pieces(stream: TextIO) -> Iterator[tuple[int, str, bool]]:
    """The lines of a file, each with its number, counted from 1. One of more than LONGEST
    characters comes in pieces, which end between two words if they can; of each, whether it is the
    first."""
    number, rest, is_first = 1, "", True
    while read := stream.readline(LONGEST):
        piece, rest = rest + read, ""
        if not (ends := read.endswith("\n")) and len(read) == LONGEST:
            head, _, tail = piece.rpartition(" ")
            if head:  # else there is no space in it, as in Chinese
                piece, rest = head, tail
        if piece:
            yield number, piece, is_first
            is_first = ends
        number += ends
    if rest:
        yield number, rest, is_first
