"""Training that is killed, stopped or refused by the disk at any moment; and training for long.

Whatever happens, the command is given again, as a user would: with --resume, or as before where
nothing had begun. The run must reach its end, with every file as that of a run that was left alone:
weights, checkpoints, log, metrics, predictions. Only the seconds that it took are left out.

Each try is a process, forked from one that has imported everything.
"""

import errno
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minibert.files import sha256
from tools.faults.rows import Row
from tools.faults.small_runs import RUNS, arguments, write_data
from tools.faults.victim import watch_operations
from train.run import main

LATE = ("torch._dynamo", "torch._inductor", "matplotlib.figure")  # what training imports late
PATIENCE = 120.0  # seconds that one process may take
SOON = 10.0  # seconds after which a signal must have ended it
NEXT = re.compile("to go on: .* --resume run$|start it again$", re.MULTILINE)
STOPPED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}
Before = Callable[[int], object]  # is called before each file operation, with its number from 1


def killed(last: int, number: int) -> None:
    """`Before`: kill -9 before one file operation."""
    if number == last:
        os.kill(os.getpid(), signal.SIGKILL)


def refused(first: int, number: int) -> None:
    """`Before`: the disk is full from one file operation on."""
    if number >= first:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def child(folder: Path, given: list[str], before: Before | None, has_pictures: bool) -> None:
    """Train in a folder. What is said goes to the file `said` there."""
    torch.set_num_threads(1)
    os.chdir(folder)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    tqdm.set_lock(threading.RLock())  # its own lock would outlive a process that is killed
    if not has_pictures:  # drawing them takes longer than all the rest
        sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]
    if before is not None:
        watch_operations(before)
    sys.exit(main(given))


@dataclass
class Trial:
    """A run that is disturbed, and started again until its end."""

    name: str  # of RUNS
    data: Path
    folder: Path

    def start(self, before: Before | None = None, more: Sequence[str] = ()) -> Any:
        """A process that trains, as a user would start it now. more: options."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *LATE])
        given = [*arguments(self.name, self.data), *more]
        if (self.folder / "run/settings.toml").exists():
            given = ["--resume", "run"]
        (self.folder / "said").unlink(missing_ok=True)
        has_pictures = self.name == "order"
        process = context.Process(target=child, args=(self.folder, given, before, has_pictures))
        process.start()
        return process

    def said(self) -> str:
        """What the last process said, as far as a report can show it."""
        file = self.folder / "said"
        return file.read_text(encoding="utf-8")[-2000:] if file.exists() else ""

    def is_finished(self) -> bool:
        """Whether the last process had nothing to do: the one before had done all."""
        return "run is finished" in self.said()

    def left(self) -> dict[str, Any]:
        """Every file of the run, hidden ones too, without the seconds that it took."""
        found: dict[str, Any] = {}
        run = self.folder / "run"
        for path in sorted(run.rglob("*")):
            name = str(path.relative_to(run))
            if path.name == ".lock":  # of a process that could not remove it: nobody holds it
                continue
            if path.name in ("metrics.json", "state.json"):
                content = json.loads(path.read_text(encoding="utf-8"))
                content.get("progress", content).pop("seconds")
                content.pop("sha256", None)  # of the whole, with the seconds
                found[name] = content
            elif path.name == "report.html":
                page = path.read_text(encoding="utf-8")
                found[name] = re.sub(r"(<h2>Time and memory).*?</section>", r"\1", page, flags=re.S)
            else:
                found[name] = sha256(path) if path.is_file() else "folder"
        return found


def end_of(process: Any) -> int:
    """The exit status of a process, which is killed if it does not end in time."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


class Laboratory:
    """Where trials are made: small data, and what a run that was left alone leaves."""

    def __init__(self, top: Path) -> None:
        self.top, self.number = top, 0
        self.expected: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}  # that a run takes that is left alone
        write_data(top / "data")

    def trial(self, name: str) -> Trial:
        """A run in a new folder. One of its name was left alone before."""
        if name not in self.expected:
            self.expected[name] = {}
            for _ in range(2):  # the first also starts the process that all others are forked from
                alone = self.trial(name)
                started = time.perf_counter()
                if end_of(alone.start()) != 0:
                    raise RuntimeError(f"{name}: {alone.said()}")
                self.seconds[name] = time.perf_counter() - started
                self.expected[name] = alone.left()
        self.number += 1
        folder = self.top / str(self.number)
        folder.mkdir()
        return Trial(name, self.top / "data", folder)

    def verdict(self, trial: Trial, status: int, fault: str) -> str:
        """Let the run reach its end, if it has not (status 0), and compare; says what is wrong, if
        anything is."""
        if status and not fault and (status := end_of(trial.start())) and not trial.is_finished():
            fault = f"exit status {status} at the end: {trial.said()}"
        if not fault:
            left, expected = trial.left(), self.expected[trial.name]
            names = sorted(left.keys() | expected.keys())
            differing = [name for name in names if left.get(name) != expected.get(name)]
            fault = f"these differ: {', '.join(differing)}" if differing else ""
        shutil.rmtree(trial.folder)
        return f"{trial.name}: {fault}" if fault else ""


@contextmanager
def laboratory() -> Iterator[Laboratory]:
    with tempfile.TemporaryDirectory() as top:
        yield Laboratory(Path(top))


def stop_at_random(
    lab: Laboratory, name: str, numbers: Sequence[signal.Signals], dice: random.Random
) -> tuple[int, str]:
    """Send a run one of some signals at random moments, until it ends in spite of that: how often
    it was stopped, and what is wrong, if anything is."""
    trial, stops, fault = lab.trial(name), 0, ""
    while not fault:
        number = dice.choice(numbers)
        process = trial.start()
        while number != signal.SIGKILL and process.is_alive() and not trial.said():
            time.sleep(0.01)  # it handles signals from its first words on
        process.join(dice.uniform(0, 1.1 * lab.seconds[name]))
        if (status := process.exitcode) is not None:
            break
        os.kill(process.pid, number)
        sent = time.perf_counter()
        status = end_of(process)
        stops += 1
        if number != signal.SIGKILL and time.perf_counter() - sent > SOON:
            fault = f"{number.name}: stopped after {time.perf_counter() - sent:.0f} s"
        elif status not in (STOPPED[number], 0):
            fault = f"{number.name}: exit status {status}: {trial.said()}"
        elif status and number != signal.SIGKILL and not NEXT.search(trial.said()):
            fault = f"{number.name}: does not say how to go on: {trial.said()}"
    return stops, lab.verdict(trial, status, fault)


def disturb_operation(
    lab: Laboratory, name: str, before: Callable[[int, int], object], operation: int, status: int
) -> tuple[bool, str]:
    """Disturb one file operation of a run, which must end with a status: whether the run has so
    many operations, and what is wrong, if anything is."""
    trial, fault = lab.trial(name), ""
    found = end_of(trial.start(partial(before, operation)))
    if found not in (status, 0) or "Traceback" in trial.said():
        fault = f"operation {operation}: exit status {found}: {trial.said()}"
    return found != 0, lab.verdict(trial, found, fault)


def all_operations(
    before: Callable[[int, int], object], status: int, names: Sequence[str], every: int
) -> Row:
    """Disturb every file operation of some runs, or every so many."""
    tried, faults = 0, []
    with laboratory() as lab:
        for name in names:
            operation, goes_on = 1, True
            while goes_on:
                goes_on, fault = disturb_operation(lab, name, before, operation, status)
                tried, operation = tried + goes_on, operation + every
                faults += [fault] if fault else []
    return Row(f"{tried} in {len(names)} runs", "each resumed to the same files", faults)


def random_moments(
    numbers: Sequence[signal.Signals], names: Sequence[str], times: int, seed: int
) -> Row:
    """Stop runs at random moments, at least so many times in all."""
    stops, runs, faults = 0, 0, []
    with laboratory() as lab:
        while stops < times:
            dice = random.Random(f"{seed} {runs}")
            found, fault = stop_at_random(lab, names[runs % len(names)], numbers, dice)
            stops, runs = stops + found, runs + 1
            faults += [fault] if fault else []
    return Row(f"{stops} in {runs} runs", "each resumed to the same files", faults)


@dataclass
class Soak:
    """What a long run used, noted from outside after each tenth of its steps, from the first."""

    seconds: list[float]
    mebibytes: list[float]
    open_files: list[int]

    @property
    def growth(self) -> float:
        """How many MiB came in the last seven tenths."""
        return self.mebibytes[-1] - self.mebibytes[2]

    @property
    def rates(self) -> tuple[float, float]:
        """How long the second and the last tenth took. The first also holds the start."""
        return self.seconds[1] - self.seconds[0], self.seconds[-1] - self.seconds[-2]


def soak(top: Path, steps: int) -> Soak:
    """Train for so many steps, with evaluations and checkpoints, and look at the process. top: an
    empty folder."""
    write_data(top / "data", size=200)
    trial = Trial("labels", top / "data", top)
    often = {"epochs": steps, "max-steps": steps, "eval-steps": 50, "save-steps": 50}
    process = trial.start(more=[f"--{name}={value}" for name, value in often.items()])
    log, proc = trial.folder / "run/log.jsonl", Path(f"/proc/{process.pid}")
    found, taken, position = Soak([], [], []), 0, 0
    while len(found.seconds) < 10:
        if not process.is_alive():
            raise RuntimeError(f"the run ended early: {trial.said()}")
        time.sleep(0.005)
        if log.exists():
            with log.open("rb") as stream:
                stream.seek(position)
                new = stream.read()
            position, taken = position + len(new), taken + new.count(b'"norm"')
        if taken >= (len(found.seconds) + 1) * steps // 10 - 1:
            pages = int((proc / "statm").read_text().split()[1])
            found.seconds.append(time.perf_counter())
            found.mebibytes.append(pages * resource.getpagesize() / 2**20)
            found.open_files.append(len(os.listdir(proc / "fd")))
    end_of(process)
    return found


def soak_of_training() -> Row:
    with tempfile.TemporaryDirectory() as top:
        found = soak(Path(top), 2000)
    first, last = found.rates
    told = (
        f"{found.mebibytes[2]:.0f} MiB after 600 steps, {found.mebibytes[-1]:.0f} at the end; "
        f"{found.open_files[-1]} open files; the last tenth took {last / first:.1%} of the second"
    )
    faults = []
    if found.growth > 8 or found.open_files[-1] > found.open_files[1] or last > 1.05 * first:
        faults.append(told)
    return Row("2,000 steps", told, faults)


ALL = tuple(RUNS)
STOPS = (signal.SIGINT, signal.SIGTERM)
EXPERIMENTS: dict[str, Callable[[], Row]] = {
    "killed: training, random moments": lambda: random_moments([signal.SIGKILL], ALL, 80, 1),
    "killed: training, every file operation": lambda: all_operations(killed, -9, ALL, 1),
    "stopped: training, random moments": lambda: random_moments(STOPS, ALL, 80, 2),
    "disk full: training, every file operation": lambda: all_operations(refused, 2, ALL, 1),
    "soak: training": soak_of_training,
}
