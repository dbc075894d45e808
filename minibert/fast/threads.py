"""Batches computed side by side, each on a thread of its own."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import TypeVar

import torch

Input = TypeVar("Input")
Output = TypeVar("Output")
starting = Lock()  # held while a pool starts


def side_by_side(
    compute: Callable[[Input], Output], inputs: Sequence[Input], workers: int
) -> Iterator[Output]:
    """`compute` of each input, in their order: at most `workers` of them at once.

    Threads that share one batch synchronise after every operation, and wait while Python does
    something between two. Together that takes a tenth of the time. So each input has its own
    thread, and a few inputs share all of PyTorch's threads between them. What the caller has set
    for its own thread, such as autocast, does not hold in the others.
    """
    count = min(workers, len(inputs))
    pool = start_pool(count, threads=workers // count)
    try:
        yield from pool.map(compute, inputs)
    finally:
        pool.shutdown(cancel_futures=True)


def start_pool(count: int, threads: int) -> ThreadPoolExecutor:
    """`count` threads, each of which computes with `threads` of PyTorch's threads.

    A thread's number of PyTorch threads is its own from the moment it asks for it. But
    `torch.set_num_threads` also sets what other threads get that have not asked yet. So that number
    is put back at once, also if a thread cannot be started. Pools start one by one, and a thread
    that may be new asks while it holds `starting`.
    """
    pool = ThreadPoolExecutor(count)
    ready = Barrier(count)

    def start() -> None:
        torch.get_num_threads()  # sets this thread up
        ready.wait()  # a thread that has not started yet must run the next `start`
        torch.set_num_threads(threads)

    with starting:
        before = torch.get_num_threads()
        try:
            for started in [pool.submit(start) for _ in range(count)]:
                started.result()
        except BaseException:
            ready.abort()
            pool.shutdown()
            raise
        finally:
            torch.set_num_threads(before)
    return pool
