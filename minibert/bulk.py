"""A corpus of any length to a file of vectors: in flat memory, and continued where it was
interrupted."""

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
class Recipe:
    """All that the rows of a file depend on beside their texts."""

    encoder: SentenceEncoder
    prompt: str = ""
    precision: str = "float32"
    # for int8: two rows, the lowest and the highest values
    ranges: NDArray[np.float32] | None = None

    def facts(self) -> dict[str, Any]:
        """The same, short enough to be kept beside a file and compared."""
        ranges = None if self.ranges is None else hashlib.sha256(self.ranges.tobytes()).hexdigest()
        return {
            **model_facts(self.encoder),
            "prompt": self.prompt,
            "precision": self.precision,
            "calibration": ranges,
        }


def model_facts(encoder: SentenceEncoder) -> dict[str, Any]:
    """What a vector depends on beside its text and its prompt."""
    weights = hashlib.sha256(repr(encoder.bert.config).encode())
    for name, tensor in encoder.bert.state_dict().items():
        weights.update(f"{name} {tensor.dtype} ".encode())
        weights.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return {
        "weights": weights.hexdigest(),
        "tokenizer": hashlib.sha256(encoder.tokenizer.backend.to_str().encode()).hexdigest(),
        "max_length": encoder.tokenizer.max_length,
        "pooling": encoder.settings.pooling,
        "include_prompt": encoder.settings.include_prompt,
        "normalize": encoder.settings.normalize,
        "dimensions": encoder.dim(),
    }


def write_vectors(
    recipe: Recipe,
    texts: Iterable[str],
    target: Path,
    *,
    resume: bool = False,
    total: int | None = None,
) -> int:
    """Encode texts into a .npy file, a row each, or a .jsonl file, a line each; returns how many
    there are.

    Rows are written as they come, to TARGET.partial, which takes the target's place at the end.
    TARGET.partial.json says after every window how far it has come, and with what. Meanwhile the
    target is locked, so that a second process cannot write it too. SIGINT or SIGTERM ends the run
    after the current window, by KeyboardInterrupt; what was computed is kept. resume: go on there;
    the result has the bits of a run that was never interrupted. Raises InputError if another
    process is writing the target or if the disk refuses; with resume, if there is nothing to
    continue, or if texts, model or options are others; without, if there is something to continue.
    """
    partial, notes = (target.with_name(f"{target.name}.partial{end}") for end in ("", ".json"))
    facts, texts = recipe.facts(), iter(texts)
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
                write_rows(stream, target.suffix, [], empty_rows(recipe), done)
                for window, vectors in recipe.encoder.stream(
                    texts, progress=True, prompt=recipe.prompt, first=done, total=total
                ):
                    rows = quantize(vectors, recipe.precision, recipe.ranges)
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
    """Where an interrupted run stands: its number of texts, which are taken off `texts`, of bytes,
    and their hash.

    A run that was killed before its first notes stands at the beginning, with a warning. Raises
    InputError if these are not its texts, its model or its options, naming what differs.
    """
    if not notes.exists():
        warnings.warn(f"{partial} has no notes ({notes.name}): beginning again", stacklevel=3)
        return 0, 0, hashlib.sha256()
    found = read_object(notes)
    done, size = found.get("texts"), found.get("bytes")
    if type(done) is not int or type(size) is not int or not 0 <= size <= partial.stat().st_size:
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
        # a byte that no UTF-8 text has
        digest.update(text.encode("utf-8", "surrogatepass") + b"\xff")


def empty_rows(recipe: Recipe) -> NDArray:
    return quantize(
        np.empty((0, recipe.encoder.dim()), dtype=np.float32), recipe.precision, recipe.ranges
    )


def write_rows(
    stream: BinaryIO, suffix: str, texts: list[str], vectors: NDArray, total: int
) -> None:
    """Append the vectors of some texts, after which the file has `total`."""
    if suffix == ".jsonl":
        stream.writelines(line.encode() for line in json_lines(texts, vectors))
        return
    stream.seek(0)
    # numpy leaves room for a growing number of rows in a header, so it can be written again in its
    # place.
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
    """Write the range of each dimension over texts, for int8, and with what they were made; returns
    how many texts."""
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
    model's, or none."""
    content = read_object(file)
    for key, value in model_facts(encoder).items():
        if content.get(key) != value:
            raise InputError(
                f"{file} was calibrated with {key} {content.get(key)!r}, and this model has {value!r}: calibrate again"
            )
    try:
        ranges = np.array([content["lowest"], content["highest"]], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: lowest and highest must be lists of {encoder.dim()} numbers"
        ) from error
    if (
        ranges.shape != (2, encoder.dim())
        or not np.isfinite(ranges).all()
        or (ranges[0] > ranges[1]).any()
    ):
        raise InputError(
            f"{file}: lowest and highest must be lists of {encoder.dim()} numbers, lowest below highest"
        )
    return ranges
