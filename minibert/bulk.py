"""Vectors of a corpus of any length, in a file: in flat memory, and continued after an
interruption."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from minibert.encoder import SentenceEncoder
from minibert.files import InputError, locked, read_object, signals, write_json
from minibert.quantize import find_ranges, quantize


@dataclass(frozen=True)
class RowSettings:
    """All that a row depends on besides its text."""

    encoder: SentenceEncoder
    prompt: str = ""
    quantized: str = "float32"  # as in `quantize`
    ranges: NDArray[np.float32] | None = None  # of int8, (2, D): the lowest and highest values

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


def write_vectors(
    settings: RowSettings,
    texts: Iterable[str],
    target: Path,
    *,
    resume: bool = False,
    total: int | None = None,
) -> int:
    """Encode texts into a .npy file, a row each, or a .jsonl file, a line each; returns the number
    of texts.

    Rows are written as they come, to TARGET.partial, which takes the target's place at the end.
    After every window, TARGET.partial.json notes how many rows there are, and what they depend on.
    The target is locked meanwhile, so that no second process writes it. SIGINT or SIGTERM ends the
    run after the current window, by KeyboardInterrupt. What was computed is kept.
    resume: continue there. The file then has the bits of a run that was never interrupted.
    Raises InputError if another process is writing the target, or if the disk refuses; with resume,
    if there is nothing to continue, or if texts, model or options have changed; without, if there
    is something to continue.
    """
    partial, notes = (target.with_name(f"{target.name}.partial{end}") for end in ("", ".json"))
    facts, texts = settings.facts(), iter(texts)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder")
    if resume and not partial.exists():
        raise InputError(f"there is nothing to resume: no file {partial}")
    with locked(target):
        if resume:
            done, size, digest = take_up(partial, notes, texts, facts)
        elif partial.exists():
            raise InputError(
                f"{partial} was left by a run that was interrupted: continue it (--resume), or "
                "delete it to begin again"
            )
        else:
            done, size, digest = 0, 0, hashlib.sha256()
        try:
            if not done:
                notes.unlink(missing_ok=True)  # of another file that was here once
            with signals() as stop_asked, partial.open("r+b" if resume else "wb") as stream:
                stream.truncate(size)
                stream.seek(size)
                write_rows(stream, target.suffix, [], empty_rows(settings), done)
                for window, vectors in settings.encoder.stream(
                    texts, progress=True, prompt=settings.prompt, first=done, total=total
                ):
                    rows = quantize(vectors, settings.quantized, settings.ranges)
                    write_rows(stream, target.suffix, window, rows, done + len(window))
                    stream.flush()
                    done += len(window)
                    add_texts(digest, window)
                    del vectors, rows  # two windows are never in memory at once
                    progress = {
                        "texts": done,
                        "texts_sha256": digest.hexdigest(),
                        "bytes": stream.seek(0, os.SEEK_END),
                    }
                    write_json(notes, progress | facts)
                    if stop_asked():
                        raise KeyboardInterrupt
            os.replace(partial, target)
            notes.unlink(missing_ok=True)
        except (OSError, InputError, KeyboardInterrupt) as error:
            kept = ""
            if done:
                kept = (
                    f"{done} vectors are in {partial}: the same command with --resume goes on "
                    "from there"
                )
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"stopped; {kept}" if kept else "stopped") from error
            if isinstance(error, OSError):
                error = InputError(
                    f"cannot write {target}: {error.strerror or error}; what was there is unchanged"
                )
            raise InputError(f"{error}\n{kept}" if kept else str(error)) from error
        finally:
            if not done:  # nothing to continue
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
    return done


def take_up(
    partial: Path, notes: Path, texts: Iterator[str], facts: dict[str, Any]
) -> tuple[int, int, Any]:
    """Where an interrupted run stands: its number of texts, its number of bytes, and the hash of
    the texts, which are taken off `texts`.

    A run that was killed before its first notes begins again, with a warning. Raises InputError,
    naming what differs, if it had other texts, another model or other options.
    """
    if not notes.exists():
        warnings.warn(f"{partial} has no notes ({notes.name}): beginning again", stacklevel=3)
        return 0, 0, hashlib.sha256()
    found = read_object(notes)
    if "quantized" not in found:  # an earlier version called it precision
        found |= {"quantized": found.get("precision"), "precision": "float32"}
    done, size = found.get("texts"), found.get("bytes")
    # a row has a byte or more
    if not (
        type(done) is int and type(size) is int and 0 <= done <= size <= partial.stat().st_size
    ):
        raise InputError(f"{notes} does not belong to {partial}: delete both to begin again")
    for key, value in facts.items():
        if found.get(key) != value:
            raise InputError(
                f"{partial} was made with {key} {found.get(key)!r}, and this run has {value!r}: "
                "give the same model and options, or delete it to begin again"
            )
    digest = hashlib.sha256()
    add_texts(digest, islice(texts, done))
    if digest.hexdigest() != found.get("texts_sha256"):
        raise InputError(
            f"{partial} was made of other texts: its first {done} are not the first {done} of this "
            "input"
        )
    return done, size, digest


def add_texts(digest: Any, texts: Iterable[str]) -> None:
    for text in texts:
        # \xff ends a text, since it is in no UTF-8 text
        digest.update(text.encode("utf-8", "surrogatepass") + b"\xff")


def empty_rows(settings: RowSettings) -> NDArray:
    return quantize(
        np.empty((0, settings.encoder.dim()), dtype=np.float32), settings.quantized, settings.ranges
    )


def write_rows(
    stream: BinaryIO, suffix: str, texts: list[str], vectors: NDArray, total: int
) -> None:
    """Append the vectors of some texts. The file then has `total` vectors."""
    if suffix == ".jsonl":
        stream.writelines(line.encode() for line in json_lines(texts, vectors))
        return
    stream.seek(0)
    # numpy's header leaves room for a larger number of rows, so that it is written over in place.
    header = {"descr": np.lib.format.dtype_to_descr(vectors.dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(stream, {**header, "shape": (total, vectors.shape[1])})
    stream.seek(0, os.SEEK_END)
    stream.write(np.ascontiguousarray(vectors).data)


def json_lines(texts: list[str], vectors: NDArray) -> Iterator[str]:
    """One object a line: a text and its vector. Nine digits hold a float32 exactly."""
    for text, vector in zip(texts, vectors, strict=True):
        numbers = (
            [float(f"{x:.9g}") for x in vector] if vector.dtype == np.float32 else vector.tolist()
        )
        yield json.dumps({"text": text, "vector": numbers}, ensure_ascii=False) + "\n"


def calibrate_ranges(
    encoder: SentenceEncoder,
    prompt: str,
    texts: Iterable[str],
    file: Path,
    total: int | None = None,
) -> int:
    """Write the range of each dimension over texts, for int8, and what they depend on; returns the
    number of texts."""
    count = 0

    def blocks() -> Iterator[NDArray[np.float32]]:
        nonlocal count
        for window, vectors in encoder.stream(texts, progress=True, prompt=prompt, total=total):
            count += len(window)
            yield vectors

    lowest, highest = find_ranges(blocks()).tolist()
    facts = {"texts": count, **model_facts(encoder)}
    write_json(file, {**facts, "lowest": lowest, "highest": highest})
    return count


def read_ranges(file: Path, encoder: SentenceEncoder) -> NDArray[np.float32]:
    """The ranges that `calibrate_ranges` wrote, (2, D). Raises InputError if they are another
    model's, or are no ranges."""
    content = {"precision": "float32"} | read_object(file)  # earlier versions had no other
    for key, value in model_facts(encoder).items():
        if content.get(key) != value:
            raise InputError(
                f"{file} was calibrated with {key} {content.get(key)!r}, and this model has "
                f"{value!r}: calibrate again"
            )
    try:
        ranges = np.array([content["lowest"], content["highest"]], dtype=np.float32)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{file}: lowest and highest must be lists of {encoder.dim()} numbers"
        ) from error
    if (
        ranges.shape != (2, encoder.dim())
        or not np.isfinite(ranges).all()
        or (ranges[0] > ranges[1]).any()
    ):
        raise InputError(
            f"{file}: lowest and highest must be lists of {encoder.dim()} numbers, "
            "lowest below highest"
        )
    return ranges
