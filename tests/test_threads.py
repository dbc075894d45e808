"""Batches are computed side by side, and PyTorch's number of threads stays the caller's in every
case."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minibert import InputError, SentenceEncoder
from minibert.fast import threads
from minibert.fast.threads import side_by_side
from tests.test_encoder import TEXTS, close, small_encoder

# Batches of at most 20 tokens: enough for several threads.
MANY = [text + extra for extra in ("", " a", " b c", " hello world") for text in TEXTS]
options: dict[str, Any] = {"batch_tokens": 20, "truncation": "silent"}


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """A number that is nobody's default."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return small_encoder(tmp_path)


def of_a_new_thread() -> int:
    """The number of PyTorch's threads in a thread that starts now."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def assert_still_three() -> None:
    assert torch.get_num_threads() == 3
    assert of_a_new_thread() == 3


# side_by_side


def test_inputs_have_a_thread_each_and_results_come_in_order() -> None:
    met = threading.Barrier(2, timeout=60)  # broken if the two do not run at once

    def compute(number: int) -> tuple[int, int]:
        met.wait()
        return number, torch.get_num_threads()

    found = side_by_side(compute, range(4), 2)
    rows = [next(found)]
    during = of_a_new_thread(), torch.get_num_threads()
    rows += found
    assert rows == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert during == (3, 3)
    assert_still_three()


def test_few_inputs_share_the_threads() -> None:
    found = side_by_side(lambda _: torch.get_num_threads(), [0, 1], 5)
    assert list(found) == [2, 2]
    assert_still_three()


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt, SystemExit])
def test_an_error_in_an_input_is_raised_and_ends_the_others(error: type[BaseException]) -> None:
    computed = []

    def compute(number: int) -> None:
        computed.append(number)
        time.sleep(0.001)
        raise error("this batch is wrong")

    with pytest.raises(error, match="this batch is wrong"):
        list(side_by_side(compute, range(1000), 2))
    assert len(computed) < 1000
    assert_still_three()


def test_a_thread_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its neighbours end, and do not wait for it."""

    class Broken(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            if len(self._threads) == 1:
                raise RuntimeError("can't start new thread")
            return super().submit(*arguments, **named)

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Broken)
    running = threading.active_count()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(side_by_side(lambda number: number, range(4), 2))
    assert threading.active_count() == running
    assert_still_three()


# The encoder


def failing(calls: int, error: BaseException) -> Callable[..., None]:
    """A hook that raises in one of the model's calls."""
    left = iter(range(calls))
    lock = threading.Lock()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with lock:
            if next(left, None) is None:
                raise error

    return hook


def test_encoding_leaves_the_number_alone_and_changes_no_vector(encoder: SentenceEncoder) -> None:
    wanted = np.stack([encoder.encode(text, truncation="silent") for text in MANY])
    assert_still_three()
    assert close(encoder.encode(MANY, **options), wanted)
    assert_still_three()


@pytest.mark.parametrize(
    "error", [RuntimeError("no memory"), InputError("a bad batch"), KeyboardInterrupt()], ids=repr
)
def test_after_an_error_in_a_batch(encoder: SentenceEncoder, error: BaseException) -> None:
    handle = encoder.bert.register_forward_pre_hook(failing(3, error))
    with pytest.raises(type(error)):
        encoder.encode(MANY, **options)
    assert_still_three()
    handle.remove()
    assert encoder.encode(MANY, **options).shape == (len(MANY), 24)


def test_after_ctrl_c(encoder: SentenceEncoder) -> None:
    """A real signal, which Python gives to the main thread, while the others compute."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if threading.current_thread() is not threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.01)

    handle = encoder.bert.register_forward_pre_hook(hook)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(MANY, **options)
    assert_still_three()
    handle.remove()
    assert encoder.encode(MANY, **options).shape == (len(MANY), 24)


@pytest.mark.parametrize("ending", ["close", "del", "throw"])
def test_after_a_stream_that_ends_half_way(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 300)
    running = threading.active_count()
    stream: Any = encoder.stream(iter(MANY), **options)
    window, _ = next(stream)
    assert len(window) < len(MANY)
    assert_still_three()
    if ending == "close":
        stream.close()
    elif ending == "throw":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())
    del stream
    assert_still_three()
    assert threading.active_count() == running


def test_eight_new_threads_encode_at_once(encoder: SentenceEncoder) -> None:
    """Each has the process's number of threads afterwards, as a new thread has."""
    wanted = encoder.encode(MANY, **options)

    def work(number: int) -> tuple[bool, int]:
        same = all(close(encoder.encode(MANY, **options), wanted) for _ in range(3))
        return same, torch.get_num_threads()

    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [(True, 3)] * 8
    assert_still_three()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_encodes_on_one_thread(encoder: SentenceEncoder) -> None:
    """As minibert/README.md says. On several threads, PyTorch itself hangs there."""
    wanted = encoder.encode(MANY, **options)
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def work() -> None:
        torch.set_num_threads(1)
        results.put(encoder.encode(MANY, **options))

    child = context.Process(target=work)
    child.start()
    try:
        assert close(results.get(timeout=60), wanted)
    finally:
        child.kill()
        child.join()


def test_a_thread_that_begins_to_encode_while_another_starts_its_pool(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not take the pool's number for its own. (Setting the number is slow here, so that the
    two meet.)"""
    real = torch.set_num_threads

    def slow(number: int) -> None:
        real(number)
        time.sleep(0.01)

    def first_text(number: int) -> int:
        encoder.encode("hello world")
        return torch.get_num_threads()

    monkeypatch.setattr(torch, "set_num_threads", slow)
    with ThreadPoolExecutor(1) as busy:
        encoding = [busy.submit(encoder.encode, MANY, **options) for _ in range(10)]
        numbers = set()
        while not encoding[-1].done():
            with ThreadPoolExecutor(1) as new:
                numbers |= set(new.map(first_text, [0]))
    assert numbers == {3}
    assert_still_three()


def test_eight_threads_with_numbers_of_their_own_keep_them(encoder: SentenceEncoder) -> None:
    wanted = encoder.encode(MANY, **options)
    together = threading.Barrier(8, timeout=60)

    def work(number: int) -> tuple[bool, int]:
        torch.get_num_threads()  # only from now on is it the thread's own
        torch.set_num_threads(1 + number % 4)
        together.wait()
        same = all(close(encoder.encode(MANY, **options), wanted) for _ in range(3))
        return same, torch.get_num_threads()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert found == [(True, 1 + number % 4) for number in range(8)]
    assert torch.get_num_threads() == 3
