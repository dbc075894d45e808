"""Vectors in fewer bytes: eight bits or one bit for each number, with the names and the arithmetic
of sentence-transformers."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from minibert.files import InputError

KINDS = ("float32", "int8", "uint8", "binary", "ubinary")
CALIBRATED = ("int8", "uint8")  # which need ranges


def quantize(
    vectors: NDArray[np.float32], kind: str, ranges: NDArray[np.float32] | None = None
) -> NDArray:
    """Vectors in fewer bytes: (n, D) float32 -> (n, D) or, one bit a number, (n, ceil(D / 8)).

    "float32": unchanged. "int8": each number becomes one of 256 steps from the lowest to the
    highest value of its dimension; values outside are clipped. These ranges, (2, D), come from a
    calibration: taken from the vectors themselves, they would change from call to call. "uint8":
    the same plus 128. "ubinary": 1 for a number above 0, packed into uint8, the first number in the
    highest bit. "binary": the same minus 128, as int8.
    Raises InputError for another kind, and for int8 and uint8 without ranges of D numbers.
    """
    if kind == "float32":
        return vectors
    if kind in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if kind not in CALIBRATED:
        raise InputError(f"the kind of vectors {kind!r} is not one of {', '.join(KINDS)}")
    if ranges is None or ranges.shape != (2, vectors.shape[-1]):
        raise InputError(
            f"{kind} needs ranges of (2, {vectors.shape[-1]}) numbers: calibrate first"
        )
    lowest, highest = ranges.astype(np.float32)
    steps = (highest - lowest) / 255
    steps[steps == 0] = 1  # a dimension that never changes
    numbers = np.clip(np.floor((vectors - lowest) / steps), 0, 255)
    return numbers.astype(np.uint8) if kind == "uint8" else (numbers - 128).astype(np.int8)


def find_ranges(blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The lowest and the highest value of each dimension: blocks of (n, D) -> (2, D). Raises
    InputError if there are no vectors."""
    lowest = highest = None
    for vectors in blocks:
        low, high = vectors.min(0), vectors.max(0)
        lowest = low if lowest is None else np.minimum(lowest, low)
        highest = high if highest is None else np.maximum(highest, high)
    if lowest is None or highest is None:
        raise InputError("a calibration needs texts, and there are none")
    return np.stack([lowest, highest])
