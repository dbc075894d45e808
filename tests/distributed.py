"""What test_distributed.py has computed by one process and by several.

The processes are started as torchrun starts them: with its environment, and with a store that
outlives them. They are forked from one that has imported everything, which torchrun's are not.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributed import TCPStore
from tqdm import tqdm

import minibert
from minibert.formats.tensors import digest
from minibert.program import run_program
from tools.faults.small_runs import words, write_data, write_lines
from tools.faults.training import LATE
from train import evaluation, launch
from train import fit as fit_module
from train.batches import Batch
from train.cache import PrefixCache
from train.evaluation import evaluate
from train.fit import fit
from train.journal import read_log
from train.launch import launched
from train.model import JointModel
from train.optimizer import adamw
from train.progress import Progress
from train.run import main
from train.settings import Settings
from train.setup import assemble
from train.wire import pack
from train.world import World

SIZE = 14  # examples of each train split

# Between them, these have every kind of task, and every setting that changes what a step computes.
# Where the last batch has fewer items than there are processes, one of its items stands in.
CASES: Mapping[str, tuple[list[str], dict[str, Any]]] = {
    "labels": (
        ["tagged", "labelled"],
        {"tasks": ("intent", "slots", "lengths", "topics"), "accumulate": 3, "batch_size": 5,
         "loss": "uncertainty", "sampling": "temperature", "group_by_length": True,
         "class_weights": "intent=auto, topics=auto"},
    ),
    "tags": (["tagged"], {"log_gradients": True, "accumulate": 2}),
    "classes": (
        ["pairs", "choices"],
        {"tasks": ("together", "apart", "label"), "pairs": "apart=apart", "batch_size": 3},
    ),
    "answers": (["questions"], {"stride": 2, "max_length": 12}),
    "scores": (
        ["pairs", "labelled"],
        {"tasks": ("cosine", "rating", "score"), "pairs": "rating=together"},
    ),
    "order": (["pairs"], {"tasks": ("cosine",), "vector_loss": "cosent", "batch_size": 13}),
    "text": (["text"], {"objectives": "masked, next", "whole_words": True, "max_length": 16}),
    "vectors": (
        ["negatives", "text", "search"],
        {"objectives": "simcse", "symmetric": True, "matryoshka": "16, 8", "mini_batch_size": 3},
    ),
    "positives": (["anchors"], {"batch_size": 13}),
    "thawing": (
        ["tagged"],
        {"freeze": "backbone", "unfreeze": "2: layers.1", "patience": 2, "epochs": 3},
    ),
    "cached": (["tagged"], {"freeze": "embeddings, layers.0", "batch_size": 13}),
}  # fmt: skip


def negatives(dice: random.Random) -> dict[str, Any]:
    """An anchor with its positive and two negatives."""
    anchor, positive, *others = (" ".join(words(dice)) for _ in range(4))
    return {"anchor": anchor, "positive": positive, "negatives": others}


def write_all(folder: Path) -> None:
    """The data of all CASES, and a small encoder."""
    write_data(folder, SIZE)
    dice = random.Random(5)
    for split, size in (("train", SIZE), ("dev", 5), ("test", 5)):
        lines = [json.dumps(negatives(dice)) for _ in range(size)]
        write_lines(folder / "negatives" / f"{split}.jsonl", lines)


def settings_of(name: str, data: Path) -> Settings:
    """The settings of one of CASES: on the CPU, without dropout, two epochs if not otherwise."""
    sources, changes = CASES[name]
    found: dict[str, Any] = {"data": (), "text": (), "dev_data": ()}
    for source in sources:
        key = {"text": "text", "search": "dev_data"}.get(source, "data")
        found[key] += (str(data / source),)
    found |= {"model": str(data / "encoder"), "device": "cpu", "dropout": 0.0, "epochs": 2}
    found |= {"batch_size": 4, "lr": 1e-3, "head_lr": 1e-2, "eval_steps": 2}
    return Settings(**(found | changes))


def computed(
    name: str, data: Path, run: Path, world: World, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """All that a run of one of CASES computes: what dev gives before the first step and after the
    last, and the log of the steps; and of each process, the digest of its weights and the sizes of
    its prefix caches."""
    caches: list[PrefixCache] = []

    def cache(*given: Any) -> PrefixCache:
        caches.append(PrefixCache(*given))
        return caches[-1]

    # a few sentences a batch, so that each process evaluates some
    with (
        patch.object(evaluation, "BATCH_TOKENS", 24),
        patch.object(fit_module, "PrefixCache", cache),
    ):
        parts = assemble(settings_of(name, data), dtype=dtype, world=world)
        result: dict[str, Any] = {"kinds": [type(task).__name__ for task in parts.tasks]}
        for moment in ("before", "after"):
            metrics, predictions = evaluate(
                parts.model, parts.tasks, parts.dev, is_tuning=True, world=world
            )
            result[moment] = {"metrics": metrics, "predictions": predictions}
            if moment == "before":
                run.mkdir(parents=True, exist_ok=True)
                fit(parts, run, Progress(), resume=False, build=adamw)
        result["log"] = read_log(run)
    result["weights"] = world.gather(digest(parts.parameters()))
    result["caches"] = world.gather([len(one.offsets) for one in caches])
    return result


def compute_all(data: Path, cases: Sequence[tuple[str, torch.dtype]], rank: int) -> int:
    """`Job`'s work: `computed` of some cases, into the file `computed`."""

    def program() -> None:
        with launched() as started:
            found = {
                (name, str(dtype)): computed(
                    name, data, Path(name, str(dtype)), started.world, dtype
                )
                for name, dtype in cases
            }
            if rank == 0:
                Path("computed").write_bytes(pack(found))

    return run_program(program)


# Starting processes, and disturbing them


def train_here(arguments: Sequence[str], disturb: Callable[[int], Sequence[str]], rank: int) -> int:
    """`Job`'s work: train.run. disturb: is called before, and returns more arguments."""
    return main([*arguments, *disturb(rank)])


def nothing(rank: int) -> Sequence[str]:
    return ()


def at_batch(number: int, happen: Callable[[], object]) -> None:
    """Let something happen before the encoder computes this process's batch of a number, from 1."""
    forward, numbers = JointModel.forward, count(1)

    def disturbed(model: JointModel, batch: Batch) -> Tensor:
        if next(numbers) == number:
            happen()
        return forward(model, batch)

    JointModel.forward = disturbed  # type: ignore


def signalled(number: int, rank: int) -> Sequence[str]:
    """As torchrun is stopped: every process gets the signal, each while it computes."""
    at_batch(5 + rank, partial(os.kill, os.getpid(), number))
    return ()


def killed(number: int, rank: int) -> Sequence[str]:
    """The second process is killed."""
    if rank == 1:
        at_batch(number, partial(os.kill, os.getpid(), signal.SIGKILL))
    return ()


def hanging(rank: int) -> Sequence[str]:
    """The second process stands still for longer than others wait."""
    launch.PATIENCE = timedelta(seconds=1)
    if rank == 1:
        at_batch(3, partial(time.sleep, 4))
    return ()


def absent(rank: int) -> Sequence[str]:
    """The second process ends before it has met the first."""
    launch.PATIENCE = timedelta(seconds=1)
    if rank == 1:
        sys.exit(1)
    return ()


def short_of_memory(error: type[Exception], who: int, rank: int) -> Sequence[str]:
    def fail() -> None:
        raise error("nothing left")

    if rank == who:
        at_batch(3, fail)
    return ()


def with_other(setting: str, value: str, rank: int) -> Sequence[str]:
    return (f"--{setting}", value) if rank == 1 else ()


def of_other_version(rank: int) -> Sequence[str]:
    if rank == 1:
        minibert.__version__ = "0.0.1"
    return ()


def elsewhere(folder: str, rank: int) -> Sequence[str]:
    """The second process has other files at the same paths."""
    if rank == 1:
        os.chdir(folder)
    return ()


def without_shared_disk(rank: int) -> Sequence[str]:
    if rank == 1:
        exists = Path.exists
        Path.exists = lambda path: path.name != ".lock" and exists(path)  # type: ignore
    return ()


class Job:
    """Processes that train together in a folder: each calls `work` with its rank.

    What each of them says is in the folder, in files of its own.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        work: Callable[[int], int],
        store: TCPStore | None = None,
        restarts: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.restarts = folder, restarts
        # as torchrun has it: in none of the processes, so that it outlives them
        self.store = store or TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        told = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self.store.port),
            "WORLD_SIZE": str(size),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(restarts),
        }
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *LATE])
        self.processes = [
            context.Process(target=child, args=(folder, work, rank, told)) for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    def again(self, work: Callable[[int], int]) -> "Job":
        """The job started once more, as torchrun does after a failure."""
        return Job(self.folder, len(self.processes), work, self.store, self.restarts + 1)

    def end(self, stops_all: bool = False) -> list[int | None]:
        """The exit statuses of the processes. One that still runs after a minute is killed, and has
        none. stops_all: if one fails, SIGTERM stops the others, as torchrun does it."""
        until = time.monotonic() + 60
        while running := [process for process in self.processes if process.is_alive()]:
            if time.monotonic() > until:
                break
            wait([process.sentinel for process in running], timeout=1)
            if stops_all and any(process.exitcode for process in self.processes):
                stops_all = False
                time.sleep(0.1)  # as torchrun: it looks so often
                for process in self.processes:
                    process.terminate()
        self.statuses = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return self.statuses

    def said(self, stream: str = "err", *ranks: int) -> str:
        """What processes have written to standard error or to standard output; all, if none is
        named."""
        chosen = ranks or range(len(self.processes))
        return "".join(
            (self.folder / f"{stream}{rank}").read_text(encoding="utf-8") for rank in chosen
        )


def child(
    folder: Path, work: Callable[[int], int], rank: int, environment: Mapping[str, str]
) -> None:
    """One process of a Job."""
    torch.set_num_threads(1)
    os.chdir(folder)
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{stream}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    tqdm.set_lock(threading.RLock())  # its own lock would outlive a process that is killed
    sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]  # pictures take long
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    sys.exit(work(rank))


if __name__ == "__main__":
    # under torchrun --max-restarts: one is killed after the first checkpoint, and not again
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        killed(5, int(os.environ["RANK"]))
    sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]  # pictures take long
    sys.exit(main(sys.argv[1:]))
