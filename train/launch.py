"""A run of several processes: how they find one another, how they begin, and how they fail.

torchrun tells each process by the environment which one it is. If one of them ends, torchrun ends
the others; with --max-restarts it starts them all again, and they go on from the last checkpoint.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import minibert
from minibert.files import InputError
from minibert.program import ignore_stops
from train.command_line import run_folder
from train.settings import Settings
from train.world import World

PATIENCE = timedelta(minutes=10)  # how long a process waits for the others
LOCAL_RANK, RESTARTS = "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"  # torchrun's variables
SURVIVORS = 2.0  # seconds in which those that are left say so, after one has ended


class Launch:
    """What torchrun started: the processes, and what they can look up without waiting for one
    another. The latter outlives a restart."""

    def __init__(self, world: World, store: Any = None, restarts: int = 0) -> None:
        self.world, self.store, self.restarts = world, store, restarts

    @contextmanager
    def run_folder(self, settings: Settings, resumed: Path | None) -> Iterator[Path]:
        """The run's folder, which the first process makes and locks: see `run_folder` of
        command_line.py. Raises InputError where another process does not see it."""
        world = self.world
        if not world.is_first:
            run = Path(world.first(str))
            if not (run / ".lock").exists():
                raise InputError(
                    f"the first process writes {run}, which cannot be seen here: the folder of a "
                    "run must be on a disk that all hosts share, at the same path"
                )
            yield run
            return
        with run_folder(settings, resumed) as run:
            world.first(lambda: str(run.resolve()))
            if self.store is not None:
                self.store.set("folder", str(run))
            yield run

    def begun(self) -> Path | None:
        """The folder in which these processes had begun before they were started again, if that is
        so."""
        if self.restarts and self.store.check(["folder"]):
            return Path(self.store.get("folder").decode())
        return None

    def has_failed(self) -> bool:
        """Whether a process has said why it failed."""
        return self.store.check([f"failed {self.restarts}"])

    def spoken(self, message: str) -> BaseException:
        """The error that ends this process: with the message, if it is the first to fail."""
        if self.world.size == 1:
            return InputError(message)
        if self.store.add(f"failed {self.restarts}", 1) > 1:
            return SystemExit(2)
        where = f"process {self.world.rank} of {self.world.size}, on {socket.gethostname()}"
        return InputError(f"{where}: {message}")

    def lost(self, error: RuntimeError) -> str:
        """Which processes are lost: those that do not say within moments that they are there."""
        names = [f"there {self.restarts} {rank}" for rank in range(self.world.size)]
        self.store.set(names[self.world.rank], "")
        time.sleep(SURVIVORS)
        missing = [str(rank) for rank, name in enumerate(names) if not self.store.check([name])]
        return (
            f"process {' and '.join(missing) or 'unknown'} has ended, or has not answered for "
            f"{PATIENCE.seconds} s ({reason_of(error)}). Its own message, or torchrun's, says why"
        )


@contextmanager
def launched() -> Iterator[Launch]:
    """The processes that torchrun has started with this one; or this one alone.

    Only the first process prints anything. If processes fail, one of them raises an InputError that
    says which one failed, and why; the others raise SystemExit and print nothing. A process that is
    about to say why it failed ignores torchrun's signal to end.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield Launch(World())
        return
    try:
        store, rank, size = next(distributed.rendezvous("env://", timeout=PATIENCE))
        local_rank, restarts = (int(os.environ.get(name, 0)) for name in (LOCAL_RANK, RESTARTS))
    except (ValueError, RuntimeError) as error:
        raise InputError(
            "RANK and WORLD_SIZE are in the environment, as torchrun sets them, but the processes "
            f"do not find one another ({reason_of(error)}). Start them all with torchrun; or unset "
            "both, to train with one process"
        ) from error
    base = getattr(store, "underlying_store", store)  # which a restart does not change
    launch = Launch(World(rank, size, local_rank), base, restarts)
    has_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        with _quiet() if rank else ExitStack():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
                store=distributed.PrefixStore(f"start {restarts}", store),  # no addresses of before
                rank=rank,
                world_size=size,
                timeout=PATIENCE,
            )
            yield launch
    except InputError as error:
        ignore_stops()
        raise launch.spoken(str(error)) from error
    except KeyboardInterrupt:  # by torchrun, which ends all when one has failed; or by the user
        if rank or launch.has_failed():
            raise SystemExit(1) from None
        raise
    except RuntimeError as error:
        if not is_lost(error):
            raise
        ignore_stops()
        raise launch.spoken(launch.lost(error)) from error
    distributed.destroy_process_group()


@contextmanager
def _quiet() -> Iterator[None]:
    """In this block, nothing is printed."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def reason_of(error: Exception) -> str:
    """The first sentence of what PyTorch says, without the place in its source."""
    return str(error).partition("\n")[0].rpartition("] ")[2].partition(". ")[0]


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process has ended, or does not answer."""
    return isinstance(error, distributed.DistError) or any(
        word in str(error) for word in ("gloo", "NCCL")
    )


def versions() -> dict[str, str]:
    """What must be the same in all processes, beside the settings."""
    return {"minibert": minibert.__version__, "torch": str(torch.__version__)}
