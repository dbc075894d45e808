"""Vectors of a corpus of any length, in a file: in flat memory, and continued after an
interruption."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from minibert.encoder import SentenceEncoder
from minibert.files import (
    InputError,
    json_text,
    read_object,
    remove_leftovers,
    write_json,
    writing,
)
from minibert.locks import locked
from minibert.program import signals
from minibert.quantize import quantize

Windows = Iterator[tuple[list[str], NDArray[np.float32]]]


@dataclass(frozen=True)
class RowSettings:
    """All that a row depends on besides its text."""

    encoder: SentenceEncoder
    prompt: str = ""
    quantized: str = "float32"  # as in `quantize`
    ranges: NDArray[np.float32] | None = None  # of int8, (2, D): the lowest and highest values

    def stream(self, texts: Iterable[str], **more: Any) -> Windows:
        """Texts and their vectors before they are quantized, as `SentenceEncoder.stream`."""
        return self.encoder.stream(texts, prompt=self.prompt, **more)

    def facts(self) -> dict[str, Any]:
        """The same, short enough to be kept beside a file and compared."""
        ranges = None if self.ranges is None else hashlib.sha256(self.ranges.tobytes()).hexdigest()
        return {
            **model_facts(self.encoder),
            "prompt": self.prompt,
            "quantized": self.quantized,
            "calibration": ranges,
        }


# In place of these settings, the prompt and the number of dimensions that are used are compared.
CHOICES = ("prompts", "default_prompt_name", "truncate_dim", "similarity", "others")


def model_facts(encoder: SentenceEncoder) -> dict[str, Any]:
    """What a vector depends on besides its text and its prompt."""
    weights = hashlib.sha256(f"{encoder.bert.config!r} {encoder.after!r}".encode())
    for name, tensor in [*encoder.bert.state_dict().items(), *encoder.after.state_dict().items()]:
        weights.update(f"{name} {tensor.dtype} ".encode())
        weights.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    facts = {name: value for name, value in vars(encoder.settings).items() if name not in CHOICES}
    return facts | {
        "weights": weights.hexdigest(),
        "tokenizer": hashlib.sha256(encoder.tokenizer.backend.to_str().encode()).hexdigest(),
        "max_length": encoder.tokenizer.max_length,
        "dimensions": encoder.dim(),
        "precision": "bfloat16" if encoder.bfloat16 else "float32",
    }


@dataclass
class Written:
    """What a partial file holds so far: rows of how many texts, and how many bytes."""

    texts: int = 0
    size: int = 0
    texts_hash: Any = field(default_factory=hashlib.sha256)
    rows_hash: Any = field(default_factory=hashlib.sha256)  # of all bytes after the header

    def facts(self) -> dict[str, Any]:
        return {
            "texts": self.texts,
            "texts_sha256": self.texts_hash.hexdigest(),
            "bytes": self.size,
            "rows_sha256": self.rows_hash.hexdigest(),
        }


def write_vectors(
    settings: RowSettings,
    texts: Iterable[str],
    target: Path,
    *,
    resume: bool = False,
    total: int | None = None,
    compute: Callable[..., Windows] | None = None,
) -> int:
    """Encode texts into a .npy file, a row each, or a .jsonl file, a line each; returns the number
    of texts.

    Rows are written as they come, to TARGET.partial, which takes the target's place at the end.
    After every window, TARGET.partial.json notes how many rows there are, their hash, and what they
    depend on. After a power cut, the notes are never ahead of the rows.
    The target is locked meanwhile, so that no second process writes it. SIGINT or SIGTERM ends the
    run after the current window, by KeyboardInterrupt. What was computed is kept.
    compute: makes windows of vectors of texts, if not this process's encoder alone. resume:
    continue there. The file then has the bits of a run that was never interrupted.
    Raises InputError if another process is writing the target, or if the disk refuses; with resume,
    if there is nothing to continue, or if texts, model, options or the rows have changed; without,
    if there is something to continue.
    """
    partial, notes = (target.with_name(f"{target.name}.partial{end}") for end in ("", ".json"))
    facts, texts = settings.facts(), iter(texts)
    encode = compute or settings.stream
    if os.path.isdir(target):
        raise InputError(f"cannot write {target}: it is a folder")
    if resume and not os.path.exists(partial):
        raise InputError(f"there is nothing to resume: no file {partial}")
    with locked(target):
        remove_leftovers(target)
        written = Written()
        if resume:
            start = header(target.suffix, empty_rows(settings), 0)
            written = take_up(partial, notes, texts, facts, len(start))
        elif os.path.exists(partial):
            raise InputError(
                f"{partial} was left by a run that was interrupted: continue it (--resume), or "
                "delete it to begin again"
            )
        try:
            with writing(target), signals() as stop_asked:
                if not written.texts:
                    notes.unlink(missing_ok=True)  # of another file that was here once
                with partial.open("r+b" if resume else "wb") as stream:
                    stream.truncate(written.size)
                    write_rows(stream, target.suffix, [], empty_rows(settings), written)
                    for window, vectors in encode(
                        texts, progress=True, first=written.texts, total=total
                    ):
                        rows = quantize(vectors, settings.quantized, settings.ranges)
                        write_rows(stream, target.suffix, window, rows, written)
                        del vectors, rows  # two windows are never in memory at once
                        partial.stat()  # raises if somebody has removed the file
                        write_json(notes, written.facts() | facts)
                        if stop_asked():
                            raise KeyboardInterrupt
                os.replace(partial, target)
                with suppress(OSError):  # the file is complete
                    notes.unlink()
        except (InputError, KeyboardInterrupt) as error:
            kept = ""
            if written.texts and partial.exists():
                kept = (
                    f"{written.texts} vectors are in {partial}: the same command with --resume "
                    "goes on from there"
                )
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"stopped; {kept}" if kept else "stopped") from error
            raise InputError(f"{error}\n{kept}" if kept else str(error)) from error
        finally:
            if not written.texts:  # nothing to continue
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
    return written.texts


def take_up(
    partial: Path, notes: Path, texts: Iterator[str], facts: dict[str, Any], start: int
) -> Written:
    """What an interrupted run has written. Its texts are taken off `texts`, and its rows, after
    `start` bytes, are read again.

    A run that was killed before its first notes begins again, with a warning. Raises InputError,
    naming what differs, if it had other texts, another model or other options, or if its rows have
    changed.
    """
    if not notes.exists():
        warnings.warn(f"{partial} has no notes ({notes.name}): beginning again", stacklevel=3)
        return Written()
    found = read_object(notes)
    count, size = found.get("texts"), found.get("bytes")
    # a row has a byte or more
    if not (
        type(count) is int and type(size) is int and 0 <= count <= size <= partial.stat().st_size
    ):
        raise InputError(f"{notes} does not belong to {partial}: delete both to begin again")
    for key, value in facts.items():
        if found.get(key) != value:
            raise InputError(
                f"{partial} was made with {key} {found.get(key)!r:.200}, and this run has "
                f"{value!r}: give the same model and options, or delete it to begin again"
            )
    written = Written(count, size)
    add_texts(written.texts_hash, islice(texts, count))
    if written.texts_hash.hexdigest() != found.get("texts_sha256"):
        raise InputError(
            f"{partial} was made of other texts: its first {count} are not the first {count} of "
            "this input"
        )
    with partial.open("rb") as stream:
        stream.seek(start)
        while block := stream.read(max(0, min(2**20, size - stream.tell()))):
            written.rows_hash.update(block)
    if written.rows_hash.hexdigest() != found.get("rows_sha256"):
        raise InputError(
            f"{partial} has changed since it was written: the hash of its first {size} bytes is "
            f"not the rows_sha256 of {notes.name}. Delete both to begin again"
        )
    return written


def add_texts(digest: Any, texts: Iterable[str]) -> None:
    for text in texts:
        # \xff ends a text, since it is in no UTF-8 text
        digest.update(text.encode("utf-8", "surrogatepass") + b"\xff")


def empty_rows(settings: RowSettings) -> NDArray:
    return quantize(
        np.empty((0, settings.encoder.dim()), dtype=np.float32), settings.quantized, settings.ranges
    )


def write_rows(
    stream: BinaryIO, suffix: str, texts: list[str], vectors: NDArray, written: Written
) -> None:
    """Append the vectors of some texts, and wait until the disk has them."""
    stream.seek(0)
    stream.write(header(suffix, vectors, written.texts + len(texts)))
    stream.seek(0, os.SEEK_END)
    is_json = suffix == ".jsonl"
    rows = "".join(json_lines(texts, vectors)).encode() if is_json else vectors.tobytes()
    stream.write(rows)
    written.rows_hash.update(rows)
    stream.flush()
    os.fsync(stream.fileno())
    written.texts, written.size = written.texts + len(texts), stream.tell()
    add_texts(written.texts_hash, texts)


def header(suffix: str, vectors: NDArray, total: int) -> bytes:
    """How a file of `total` such vectors begins. It is as long for every total: numpy leaves room
    for a larger one."""
    if suffix == ".jsonl":
        return b""
    stream = BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(vectors.dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(stream, {**facts, "shape": (total, vectors.shape[1])})
    return stream.getvalue()


def json_lines(texts: list[str], vectors: NDArray) -> Iterator[str]:
    """One object a line: a text and its vector. Nine digits hold a float32 exactly."""
    for text, vector in zip(texts, vectors, strict=True):
        numbers = (
            [float(f"{x:.9g}") for x in vector] if vector.dtype == np.float32 else vector.tolist()
        )
        yield json_text({"text": text, "vector": numbers}) + "\n"
