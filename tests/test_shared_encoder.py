"""One SentenceEncoder, used by several threads, tasks and processes at once."""

import asyncio
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minibert import InputError, SentenceEncoder
from tests.test_encoder import TEXTS, close, small_encoder
from tools.faults.kill import fork, was_killed

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = ["a b c hello world " * count for count in (10, 100, 2000)]  # over the limit
ALL = [*TEXTS, *LONG]


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return small_encoder(tmp_path / "vocabulary", max_length=40)


def test_eight_threads_encode_long_and_short_texts_and_save(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    wanted = encoder.encode(ALL, truncation="silent")

    def encode(number: int) -> None:
        for _ in range(3):
            assert close(encoder.encode(ALL, truncation="silent"), wanted)
            assert close(encoder.encode(TEXTS[number]), wanted[number])

    def refuse(number: int) -> None:
        for text in LONG * 3:
            with pytest.raises(InputError, match="longer than 40 tokens"):
                encoder.encode([TEXTS[number], text], truncation="error")

    def save(number: int) -> None:
        for folder in (tmp_path / "one", tmp_path / str(number)):  # the first is everybody's
            encoder.save_pretrained(folder)

    with ThreadPoolExecutor(8) as pool:
        works = [encode, encode, refuse, save, encode, refuse, encode, save]
        for done in [pool.submit(work, i % len(TEXTS)) for i, work in enumerate(works)]:
            done.result()
    for folder in (tmp_path / "one", tmp_path / str(3 % len(TEXTS))):
        saved = SentenceEncoder.from_pretrained(folder, device="cpu")
        assert close(saved.encode(ALL, truncation="silent"), wanted)


def test_asyncio(encoder: SentenceEncoder) -> None:
    async def several() -> list[np.ndarray]:
        calls = [asyncio.to_thread(encoder.encode, text, truncation="silent") for text in ALL]
        return list(await asyncio.gather(*calls))

    assert close(np.stack(asyncio.run(several())), encoder.encode(ALL, truncation="silent"))


def test_a_forked_child_with_one_thread(encoder: SentenceEncoder) -> None:
    """See minibert/README.md for several threads."""
    wanted = encoder.encode(TEXTS)

    def work() -> None:
        assert np.array_equal(encoder.encode(TEXTS), wanted)

    assert not was_killed(fork(work))


def test_a_spawned_child(encoder: SentenceEncoder) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert close(pool.apply(encoder.encode, (TEXTS,)), encoder.encode(TEXTS))
