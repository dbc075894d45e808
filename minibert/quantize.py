"""Vectors in fewer bytes: eight bits a number, or one. By the names and the arithmetic of
sentence-transformers."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from minibert.files import InputError

PRECISIONS = ("float32", "int8", "binary", "ubinary")


def quantize(
    vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None = None
) -> NDArray:
    """(n, D) float32 -> the same ("float32"), (n, D) int8 ("int8"), or a bit a number: (n, ceil(D /
    8)).

    "int8": each number's place among 256 steps from its dimension's lowest to its highest value,
    ranges (2, D); values outside clip. They come from a calibration, since ranges of these vectors
    would give others in the next call. "ubinary": 1 for a number above 0, packed into uint8, the
    first number in the highest bit; "binary": the same less 128, as int8. Raises InputError for
    another precision, and for int8 without ranges of D numbers.
    """
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if precision != "int8":
        raise InputError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if ranges is None or ranges.shape != (2, vectors.shape[-1]):
        raise InputError(f"int8 needs ranges of (2, {vectors.shape[-1]}) numbers: calibrate first")
    lowest, highest = ranges.astype(np.float32)
    steps = (highest - lowest) / 255
    steps[steps == 0] = 1  # a dimension that never changes
    return (np.clip(np.floor((vectors - lowest) / steps), 0, 255) - 128).astype(np.int8)


def find_ranges(blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The lowest and the highest value of each dimension: many (n, D) -> (2, D). Raises InputError
    for no vectors."""
    lowest = highest = None
    for vectors in blocks:
        low, high = vectors.min(0), vectors.max(0)
        lowest = low if lowest is None else np.minimum(lowest, low)
        highest = high if highest is None else np.maximum(highest, high)
    if lowest is None or highest is None:
        raise InputError("a calibration needs texts, and there are none")
    return np.stack([lowest, highest])
