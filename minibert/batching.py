"""Windows of a stream of texts, and batches of about equal cost."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

WINDOW_CHARACTERS = 2**18  # of texts that are sorted and computed together: a few seconds' work


def windows(texts: Iterable[T], length: Callable[[Any], int] = len) -> Iterator[list[T]]:
    """The texts in lists of about WINDOW_CHARACTERS characters, one list at a time.

    length: how many characters one has; `len`, where they are plain texts. Where a window ends
    depends on its own texts alone. So a stream that is taken up at the end of a window goes on with
    the same windows.
    """
    window: list[T] = []
    room = WINDOW_CHARACTERS
    for text in texts:
        window.append(text)
        room -= length(text) + 8  # an empty text is work and memory too
        if room <= 0:
            yield window
            window, room = [], WINDOW_CHARACTERS
    if window:
        yield window


def batches(lengths: Sequence[int], batch_tokens: int, workers: int = 1) -> Iterator[list[int]]:
    """The numbers of all texts in batches of at most `batch_tokens` tokens and about equal size.

    lengths: the tokens of each text. The longest texts come first, so that a lack of memory shows
    at once. Texts of similar length come together, as `Packed` likes it; a text that is longer than
    `batch_tokens` has a batch for itself. workers: how many batches are computed at once; if one
    batch is not enough, there is one for each worker, as far as there are texts.
    """
    left = sum(min(length, batch_tokens) for length in lengths)  # tokens that are in no batch yet
    count = math.ceil(left / batch_tokens)  # batches to come
    if count > 1:
        count = math.ceil(count / workers) * workers
    batch: list[int] = []
    size = 0  # the batch's tokens
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        # A batch also ends where its size is nearer to its share of what is left without this text.
        share = left / max(count, 1)
        if batch and (size + lengths[i] > batch_tokens or size + lengths[i] / 2 > share):
            yield batch
            left, count, batch, size = left - min(size, batch_tokens), count - 1, [], 0
        batch.append(i)
        size += lengths[i]
    if batch:
        yield batch
