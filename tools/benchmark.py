"""python -m tools.benchmark train | frozen: ours beside the peers, on the same work, in one run.

Every engine gets ready and warms up in a process of its own; then they take turns (A B C A B C ...), one at a time, and
the median of the rounds counts. Times are given as ratios, with the machine's own matrix-product rate and the versions:
absolute times move from machine to machine.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from minibert.files import InputError, write_json
from train.report import table

PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "openvino", "ctranslate2")


@dataclass
class Engine:
    """A name for the table, and the function of tools/engines.py that it stands for, with its arguments."""

    name: str
    function: str
    arguments: dict[str, Any]


class Worker:
    """An engine in a process of its own, which does its work once whenever it is told to."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine = engine
        self.results: list[dict[str, float]] = []
        command = [sys.executable, "-m", "tools.benchmark", "worker", json.dumps(vars(engine)), str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
        )
        self._answer()

    def measure(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.results.append(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def median(self, key: str) -> float:
        return statistics.median(result[key] for result in self.results)

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise InputError(f"the engine {self.engine.name} ended; its own message stands above")
        return json.loads(line)


def worker(description: str, threads: int) -> None:
    """The other side: get ready, warm up, then time one piece of work for each line on standard input."""
    from tools import engines

    torch.set_num_threads(threads)
    engine = json.loads(description)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    work = getattr(engines, engine["function"])(**engine["arguments"])
    work()
    print("{}", file=answers)
    for _ in sys.stdin:
        start = time.perf_counter()
        tokens = work()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_mib": peak}), file=answers)


def race(engines: Sequence[Engine], rounds: int, threads: int) -> list[Worker]:
    """Measure engines in turns."""
    workers = [Worker(engine, threads) for engine in engines]
    for i in range(rounds):
        for each in workers:
            each.measure()
            print(f"round {i + 1}  {each.engine.name}: {each.results[-1]['seconds']:.2f} s", file=sys.stderr)
    for each in workers:
        each.close()
    return workers


def matmul_rate(threads: int, seconds: float = 2.0) -> float:
    """The machine's float32 matrix products in GFLOP/s, on the shapes of MiniLM's linear layers at 1024 tokens."""
    torch.set_num_threads(threads)
    x = {size: torch.randn(1024, size) for size in (384, 1536)}
    weights = [torch.randn(384, 384)] * 4 + [torch.randn(1536, 384), torch.randn(384, 1536)]
    flop = sum(2 * 1024 * w.numel() for w in weights)
    rates = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        for w in weights:
            F.linear(x[w.size(1)], w)
        rates.append(flop / (time.perf_counter() - before) / 1e9)
    return statistics.median(rates)


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "matmul_gflops": round(matmul_rate(threads), 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def results_table(workers: Sequence[Worker], flop_per_token: float, rate: float) -> list[Sequence[str]]:
    """Seconds and their spread, tokens a second, the share of the machine's rate, peak memory, the ratio to ours."""
    ours = workers[0].median("seconds")
    rows: list[Sequence[str]] = [
        ("engine", "seconds", "spread", "tokens/s", "of matmul rate", "peak MiB", "time / ours")
    ]
    for each in workers:
        seconds = [result["seconds"] for result in each.results]
        speed = each.median("tokens") / each.median("seconds")
        rows.append(
            (
                each.engine.name,
                f"{each.median('seconds'):.2f}",
                f"{min(seconds):.2f}-{max(seconds):.2f}",
                f"{speed:,.0f}",
                f"{speed * flop_per_token / 1e9 / rate:.0%}",
                f"{max(result['peak_mib'] for result in each.results):,.0f}",
                f"{each.median('seconds') / ours:.2f}",
            )
        )
    return rows


def train_engines(data: str, count: int) -> list[Engine]:
    """The joint SNIPS step: batch 32, dropout on, clipping, fused AdamW for all."""
    same = {"data": data, "count": count}
    return [
        Engine("minibert, packed", "train_ours", same),
        Engine("transformers, padded per batch", "train_transformers", same | {"padding": "batch"}),
        Engine("transformers, grouped by length", "train_transformers", same | {"padding": "grouped"}),
        Engine("transformers, padded to 50", "train_transformers", same | {"padding": "50"}),
    ]


def frozen_engines(data: str, count: int) -> list[Engine]:
    """Five epochs with none, half and all of the backbone frozen, with and without the prefix cache."""
    same = {"data": data, "count": count, "epochs": 5}
    half = "embeddings, layers.0-2"
    return [
        Engine("nothing frozen", "train_ours", same),
        Engine("lower half frozen", "train_ours", same | {"freeze": half}),
        Engine("lower half frozen, cached", "train_ours", same | {"freeze": half, "cache": True}),
        Engine("backbone frozen", "train_ours", same | {"freeze": "backbone"}),
        Engine("backbone frozen, cached", "train_ours", same | {"freeze": "backbone", "cache": True}),
    ]


MINILM_FLOP = 6 * 2 * (4 * 384 * 384 + 2 * 384 * 1536)  # linear layers, a token, forward


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    parser.add_argument("what", choices=("train", "frozen"))
    parser.add_argument("--data", default="newsroom", help="a data folder with a sentence task and a token task")
    parser.add_argument("--count", type=int, default=1024, help="training sentences (1024)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each engine's turn comes (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    options = parser.parse_args(arguments)
    try:
        facts = machine(options.threads)
        build = {"train": train_engines, "frozen": frozen_engines}[options.what]
        workers = race(build(options.data, options.count), options.rounds, options.threads)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(
        f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, {facts['matmul_gflops']} GFLOP/s float32"
    )
    print(f"python {facts['python']}, {versions}")
    print(table(results_table(workers, 3 * MINILM_FLOP, facts["matmul_gflops"])))
    if options.json:
        measured = {each.engine.name: each.results for each in workers}
        write_json(options.json, {"what": options.what, "machine": facts, "results": measured})
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main())
