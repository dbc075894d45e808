"""Texts encoded by several processes, each of which has an encoder of its own.

One process uses all cores as well: its threads compute a batch each. On two cores that is faster
(RESULTS.md). Several processes may be where there are many cores, since each of them tokenizes its
own texts, and shares no memory with the others.
"""

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from signal import SIG_IGN
from threading import RLock, Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.batching import windows
from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.program import handling
from minibert.tokens import Truncated, TruncationWarning

AHEAD = 2  # windows of texts that each process has or waits for
Encoded = tuple[NDArray[np.float32], Truncated | None]  # vectors, and what was cut off


@dataclass(frozen=True)
class Opening:
    """How a process opens its encoder: with the arguments of `SentenceEncoder.from_pretrained`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    prompt: str = ""
    threads: int = 1  # of PyTorch's


class Worker:
    """An encoder that computes for another process."""

    def __init__(self, opening: Opening) -> None:
        torch.set_num_threads(opening.threads)
        self.encoder = SentenceEncoder.from_pretrained(opening.name, **opening.options)
        self.prompt = opening.prompt

    def encode(self, texts: list[str], first: int = 0) -> Encoded:
        """The vectors of some texts, (n, D), and what was cut off. first: the number of the first
        text, for messages."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            windowed = self.encoder.stream(texts, prompt=self.prompt, first=first)
            vectors = np.concatenate([vectors for _, vectors in windowed])
        found = [w.message for w in told]
        cut = [message.truncated for message in found if isinstance(message, TruncationWarning)]
        return vectors, cut[0] if cut else None


worker: Worker  # of this process, if it is one of a pool


def _begin(opening: Opening, parent: Connection) -> None:
    """The start of a process of the pool."""
    global worker
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    tqdm.set_lock(RLock())  # its own is the system's, and this process does not end to free it
    worker = Worker(opening)


def _end_with(parent: Connection) -> None:
    """End this process when its parent closes the connection, or is killed."""
    parent.poll(None)
    os._exit(1)


def _encode(texts: list[str], first: int) -> Encoded:
    return worker.encode(texts, first)


def stream(
    opening: Opening,
    count: int,
    texts: Iterable[str],
    *,
    progress: bool = False,
    first: int = 0,
    total: int | None = None,
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """As `SentenceEncoder.stream`, by `count` processes: windows of texts and their vectors, in the
    order of the texts.

    Each process has at most AHEAD windows at a time, so memory stays flat. Raises InputError if one
    of them is ended from outside.
    """
    truncated: Truncated | None = None
    done = given = first
    context = get_context("spawn")
    for_children, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, context, _begin, (opening, for_children))
    waiting: deque[tuple[list[str], Future[Encoded]]] = deque()
    left = windows(texts)
    bar = tqdm(initial=first, total=total, unit="text", disable=None if progress else True)
    try:
        while True:
            for window in islice(left, count * AHEAD - len(waiting)):
                with handling(SIG_IGN):  # the processes begin here: only this one obeys Ctrl-C
                    waiting.append((window, pool.submit(_encode, window, given)))
                given += len(window)
            if not waiting:
                break
            window, future = waiting.popleft()
            vectors, cut = future.result()
            done += len(window)
            if cut is not None:
                truncated = truncated or Truncated(cut.limit, "warn", first)
                truncated.join(cut)
            bar.update(len(window))
            yield window, vectors
    except BrokenProcessPool as error:
        raise InputError(
            f"one of the {count} processes has ended, at text number {done} or later: it was "
            "killed, or there was not memory enough for so many"
        ) from error
    finally:
        bar.close()
        ours.close()  # the processes end at once, also in the midst of a window
        pool.shutdown(cancel_futures=True)
    if truncated is not None:
        truncated.warn(done)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
