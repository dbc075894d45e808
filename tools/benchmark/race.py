"""Engines that do the same work take turns (A B C, C A B ...), one at a time.

Each engine has a process of its own, so that its memory is its own and no two libraries share a
thread pool. They take turns because a machine's speed drifts: so what is compared is measured
within seconds of each other. The order changes from round to round, since each engine finds the
caches and the clock rate that the one before has left.
"""

import importlib
import importlib.metadata
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from minibert.files import InputError
from minibert.precision import computes_bfloat16, instructions

# Does a job with a way of batching. Tells how much was "done", in tokens say, and perhaps its
# useful "flop". "seconds" is the whole call's time, unless the work tells its own.
Work = Callable[[str, str], dict[str, float]]


@dataclass(frozen=True)
class Engine:
    """What is measured: a name for the table, and a function that returns the work.

    The function runs in the engine's own process, and is not timed. arguments: the function's, as
    JSON. batches: the ways of batching to measure, of which the fastest counts. packages: what must
    be installed. precision: of its products, "float32", "bfloat16" or "int8". device: "cpu" or
    "cuda". tree: another checkout of this project, whose function of the same name does the work.
    """

    name: str
    function: Callable[..., Work]
    arguments: dict[str, Any]
    batches: tuple[str, ...] = ("",)
    packages: tuple[str, ...] = ()
    precision: str = "float32"
    device: str = "cpu"
    tree: str = ""

    @property
    def label(self) -> str:
        return self.name if self.precision == "float32" else f"{self.name}, {self.precision}"

    def obstacle(self) -> str | None:
        """Why it cannot be measured here, if it cannot."""
        for package in self.packages:
            if version(package) is None:
                return f"package {package} is not installed"
        if self.precision == "bfloat16" and self.device == "cpu" and not computes_bfloat16():
            if "avx512_bf16" in instructions():
                return "PyTorch is kept from this processor's avx512_bf16"
            return "this processor has no avx512_bf16"
        return None


@dataclass
class Result:
    """What was measured of an engine with one way of batching: "seconds", "peak_mib" and "done" in
    each round.

    engine: its label.
    """

    engine: str
    batch: str
    rounds: list[dict[str, float]] = field(default_factory=list)
    precision: str = "float32"

    @property
    def label(self) -> str:
        return f"{self.engine}, {self.batch}" if self.batch else self.engine

    def values(self, key: str) -> list[float]:
        return [measured[key] for measured in self.rounds]

    def speed(self, key: str = "done") -> float:
        """Work done a second: the rounds' median."""
        return statistics.median(measured[key] / measured["seconds"] for measured in self.rounds)


class Worker:
    """An engine in a process of its own, which does its work once whenever it is told to."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine = engine
        function = f"{engine.function.__module__}:{engine.function.__name__}"
        command = [
            sys.executable,
            "-m",
            "tools.benchmark.race",
            function,
            json.dumps(engine.arguments),
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads) | ({"PYTHONPATH": engine.tree} if engine.tree else {}),
            cwd=engine.tree or None,
            bufsize=1,
        )
        self._answer()

    def work(self, job: str, batch: str) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([job, batch]) + "\n")
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise InputError(f"the engine {self.engine.label} ended; its own message stands above")
        return json.loads(line)


def environment(threads: int) -> dict[str, str]:
    """A process's environment: as many threads for all libraries, no network, and none of their
    remarks."""
    count = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return os.environ | count | quiet | {"HF_HUB_OFFLINE": "1"}


def measurable(engines: Sequence[Engine]) -> list[Engine]:
    """Those that can be measured here; the others are named on standard output, with the reason."""
    able = []
    for engine in engines:
        obstacle = engine.obstacle()
        if obstacle is None:
            able.append(engine)
        else:
            print(f"not measured: {engine.label}: {obstacle}")
    return able


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def ready(engines: Sequence[Engine], threads: int) -> Iterator[list[Worker]]:
    """A worker for each engine, all of them ready; they end with the block."""
    workers: list[Worker] = []
    try:
        for engine in engines:
            print(f"getting ready: {engine.label}", file=sys.stderr)
            workers.append(Worker(engine, threads))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def race(workers: Sequence[Worker], rounds: int, job: str) -> list[Result]:
    """Let workers do a job in turns: once to warm up, and then for `rounds` rounds."""
    turns = [
        (worker, Result(worker.engine.label, batch, precision=worker.engine.precision))
        for worker in workers
        for batch in worker.engine.batches
    ]
    for i in range(rounds + 1):
        # whoever warms up first leaves its vectors
        order = random.Random(i).sample(turns, len(turns)) if i else turns
        for worker, result in order:
            measured = worker.work(job, result.batch)
            if i:
                result.rounds.append(measured)
            name = f"round {i}" if i else "warm-up"
            print(f"{job}, {name}  {result.label}: {measured['seconds']:.2f} s", file=sys.stderr)
    return [result for _, result in turns]


def serve(function: str, arguments: str) -> None:
    """The worker's side: get ready, then time one piece of work for each line on standard input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    module, _, name = function.partition(":")
    work: Work = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    print("{}", file=answers)
    for line in sys.stdin:
        start = time.perf_counter()
        told = work(*json.loads(line))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak} | told), file=answers)


if __name__ == "__main__":
    serve(*sys.argv[1:])
