"""Very long texts: how long their tokens take, and how much memory."""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minibert import SentenceEncoder
from tools.faults.rows import Row
from tools.faults.small import write_small_encoder

TEXTS = {
    "no space": "a" * 10**7,
    "short words": "the good film " * 71_429,
    "combining marks": "e" + "\u0301" * 10**6,
    "Chinese": "好" * 333_333,
}
SECONDS, MEBIBYTES = 60.0, 4096.0  # that a text may take


def tokens(name: str, folder: Path) -> tuple[float, float, bool]:
    """The seconds that a text's tokens take, the process's memory in MiB, and whether the tokens
    are those of the tokenizers library."""
    tokenizer = SentenceEncoder.from_pretrained(folder, device="cpu").tokenizer
    started = time.perf_counter()
    (ours,) = tokenizer.encode([TEXTS[name]], "silent")
    seconds = time.perf_counter() - started
    mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    theirs = tokenizer.backend
    theirs.enable_truncation(len(ours.ids))
    return seconds, mebibytes, ours.ids == theirs.encode(TEXTS[name]).ids


def long_texts() -> Row:
    """Each text in a process of its own."""
    told, faults = [], []
    with (
        tempfile.TemporaryDirectory() as top,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        write_small_encoder(Path(top))
        for name in TEXTS:
            seconds, mebibytes, is_same = pool.apply(tokens, (name, Path(top)))
            told.append(f"{name}: {seconds:.1f} s, {mebibytes:,.0f} MiB")
            if seconds > SECONDS or mebibytes > MEBIBYTES or not is_same:
                faults.append(f"{told[-1]}, {'the same' if is_same else 'other'} tokens")
    return Row(f"{len(TEXTS)} texts", "; ".join(told), faults)


EXPERIMENTS: dict[str, Callable[[], Row]] = {"long texts": long_texts}
