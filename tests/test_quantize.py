"""quantize.py: bit for bit what sentence_transformers.util.quantize_embeddings makes of the same
vectors and ranges."""

import numpy as np
import pytest

from minibert import InputError
from minibert.quantize import KINDS, find_ranges, quantize


@pytest.fixture
def vectors() -> np.ndarray:
    """Rows outside the ranges, zeros of both signs, a dimension that never changes, and no multiple
    of eight."""
    vectors = np.random.default_rng(0).normal(size=(300, 45)).astype(np.float32)
    vectors[0] *= 10
    vectors[1, :4] = [0, -0.0, 1e-30, -1e-30]
    vectors[:, 7] = 0.25
    return vectors


@pytest.mark.parametrize("kind", KINDS)
def test_as_sentence_transformers(kind: str, vectors: np.ndarray) -> None:
    peers = pytest.importorskip("sentence_transformers.util")
    ranges = find_ranges([vectors[50:100], vectors[100:101], vectors[101:]])
    assert np.array_equal(ranges, np.stack([vectors[50:].min(0), vectors[50:].max(0)]))
    expected = peers.quantize_embeddings(vectors, kind, ranges=ranges)
    found = quantize(vectors, kind, ranges)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert quantize(vectors[:0], kind, ranges).shape == expected[:0].shape


def test_int8_clips_and_nearly_keeps_cosines(vectors: np.ndarray) -> None:
    ranges = find_ranges([vectors[1:]])
    small = quantize(vectors, "int8", ranges)
    assert {int(small[0].min()), int(small[0].max())} == {-128, 127}
    steps = (ranges[1] - ranges[0]) / 255
    back = (small[1:].astype(np.float32) + 128.5) * steps + ranges[0]
    # half a step, whatever the value
    assert (np.abs(back - vectors[1:]) <= steps * 0.5001 + 1e-6).all()


def test_what_is_refused(vectors: np.ndarray) -> None:
    for ranges in (None, np.zeros((2, 44), np.float32)):
        with pytest.raises(
            InputError, match=r"int8 needs ranges of \(2, 45\) numbers: calibrate first"
        ):
            quantize(vectors, "int8", ranges)
    with pytest.raises(
        InputError,
        match="the kind of vectors 'int4' is not one of float32, int8, uint8, binary, ubinary",
    ):
        quantize(vectors, "int4")
    with pytest.raises(InputError, match="a calibration needs texts, and there are none"):
        find_ranges([])
