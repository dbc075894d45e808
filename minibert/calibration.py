"""The range of each dimension over typical texts, in a file: int8 vectors need it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minibert.bulk import model_facts
from minibert.encoder import SentenceEncoder
from minibert.files import InputError, read_object, write_json
from minibert.quantize import find_ranges


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
