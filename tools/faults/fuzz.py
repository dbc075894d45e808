"""Files from strangers: sound ones are changed at random, and used as a user's program uses them.

A case is one change of one file. It may end in a result, or in one of the project's own errors
with a readable message. Everything else is a fault: another exception, a process that dies, one
that takes too long or too much memory, a file touched outside of the folder, anything executed, or
printed characters that control a terminal.
Cases run in a process of their own, which a dying case takes with it, and are drawn from seeds:
`python -m tools.faults KIND --replay CASE` shows one again.
"""

import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from minibert.files import CONTROLS, InputError
from tools.faults.mutate import Mutator

SECONDS = 10.0  # that one case may take
MEMORY = 2 * 2**30  # bytes that all cases of a process may take together
SOUND = ("result", "refused")


@dataclass(frozen=True)
class Kind:
    """A kind of input. make: writes sound files into an empty folder. mutators: how its files are
    changed, by their paths in the folder. use: what a program does with the folder."""

    name: str
    make: Callable[[Path], None]
    mutators: Mapping[str, Mutator]
    use: Callable[[Path], object]


@dataclass
class Outcome:
    """What became of one case: "result", "refused", or the fault, and its message."""

    kind: str
    case: int
    what: str
    message: str = ""


@dataclass
class Sandbox:
    """Where a case may read and write, as Python's audit events tell it."""

    folder: Path
    trespasses: list[str] = field(default_factory=list)
    is_watching: bool = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_watching:
            return
        if event in ("os.system", "os.exec", "subprocess.Popen", "socket.connect", "os.posix_spawn",
                     "pickle.find_class"):  # fmt: skip
            self.trespasses.append(f"{event} {arguments[:1]}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not path.startswith(str(self.folder)) and (writes or not path.startswith(READABLE)):
                self.trespasses.append(f"{'writes' if writes else 'reads'} {path}")
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
            # the last argument may be the open folder that a relative name is in; -1 for none
            at = arguments[-1] if isinstance(arguments[-1], int) and arguments[-1] >= 0 else None
            parent = f"/proc/self/fd/{at}" if at is not None else ""
            path = os.path.realpath(os.path.join(parent, os.fsdecode(arguments[0])))
            if not path.startswith(str(self.folder)):
                self.trespasses.append(f"{event} {path}")


ROOT = str(Path(__file__).resolve().parents[2])
READABLE = (ROOT, sys.prefix, sys.base_prefix, "/usr", "/proc", "/sys", "/dev/null")


def changed(kind: Kind, case: int, sound: Path, folder: Path) -> str:
    """Copy the sound files into the folder, and change one of them; says which."""
    dice = random.Random(f"{kind.name} {case}")
    shutil.copytree(sound, folder, symlinks=True)
    file = dice.choice(sorted(kind.mutators))
    content = (folder / file).read_bytes()
    for _ in range(dice.choice((1, 1, 2, 4))):
        content = kind.mutators[file](content, dice)
    (folder / file).write_bytes(content)
    return file


def attempt(kind: Kind, case: int, sound: Path, sandbox: Sandbox) -> Outcome:
    """Run one case in this process."""
    folder = sandbox.folder / "given"
    file = changed(kind, case, sound, folder)
    before = set(os.listdir(sandbox.folder))
    sandbox.trespasses.clear()
    outcome = Outcome(kind.name, case, "result")
    screen = StringIO()
    sandbox.is_watching = True
    try:
        with redirect_stdout(screen), redirect_stderr(screen), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.use(folder)
    except InputError as error:
        outcome.what, outcome.message = "refused", str(error)
        print(error, file=screen)
        if len(outcome.message) > 3000:
            outcome.what = "unreadable"
    except MemoryError:
        outcome.what, outcome.message = "memory", traceback.format_exc()
    except BaseException:
        outcome.what, outcome.message = "traceback", traceback.format_exc()
    finally:
        sandbox.is_watching = False
    if outcome.what in SOUND and (found := CONTROLS.search(screen.getvalue())):
        start, end = found.start(), found.end()
        outcome.what = "unreadable"
        outcome.message = repr(screen.getvalue()[max(0, start - 80) : end + 80])
    if sandbox.trespasses or set(os.listdir(sandbox.folder)) != before:
        outcome.what, outcome.message = "outside", "; ".join(sandbox.trespasses) or "a new file"
    outcome.message = f"{file}: {outcome.message}"
    shutil.rmtree(folder)
    return outcome


def serve(kinds: Callable[[], tuple[Kind, ...]], pipe: Connection, top: str) -> None:
    """The process that runs cases: takes (kind, case) from the pipe, and answers with outcomes."""
    import torch

    torch.set_num_threads(1)
    known = {kind.name: kind for kind in kinds()}
    sandbox = Sandbox(Path(os.path.realpath(top)) / "cases")
    sandbox.folder.mkdir(exist_ok=True)
    sys.addaudithook(sandbox.hook)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    while (asked := pipe.recv()) is not None:
        name, case = asked
        sound = Path(top) / "sound" / name
        if not sound.exists():
            sound.mkdir(parents=True)
            given = sandbox.folder / "given"
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                known[name].make(sound)
                known[name].use(shutil.copytree(sound, given, symlinks=True))
            shutil.rmtree(sandbox.folder / "given")
            pipe.send(None)
        pipe.send(attempt(known[name], case, sound, sandbox))


class Fuzzer:
    """Runs cases in a process of their own, and begins another when one has died."""

    def __init__(self, kinds: Callable[[], tuple[Kind, ...]]) -> None:
        self.kinds = kinds
        self.top = tempfile.TemporaryDirectory()
        self.process: Any = None

    def __enter__(self) -> "Fuzzer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.top.cleanup()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
            shutil.rmtree(Path(self.top.name) / "cases", ignore_errors=True)

    def outcome(self, kind: str, case: int) -> Outcome:
        """What becomes of one case."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            arguments = (self.kinds, theirs, self.top.name)
            self.process = context.Process(target=serve, args=arguments, daemon=True)
            self.process.start()
            theirs.close()
            self.is_new = True
        self.pipe.send((kind, case))
        try:
            while True:
                patience = 120.0 if self.is_new else SECONDS
                if not self.pipe.poll(patience):
                    self.stop()
                    return Outcome(kind, case, "hang", f"more than {patience:.0f} s")
                answer = self.pipe.recv()
                self.is_new = answer is None
                if answer is not None:
                    return answer
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            self.stop()
            return Outcome(kind, case, "abort", f"exit code {code}")

    def outcomes(self, kind: str, cases: int, first: int = 0) -> Iterator[Outcome]:
        for case in range(first, first + cases):
            yield self.outcome(kind, case)


def fuzz(kinds: Callable[[], tuple[Kind, ...]], names: list[str], cases: int, first: int) -> int:
    """Print a row of the table for each kind: cases, results, refusals, faults. Returns the number
    of faults; the first of each sort are shown on stderr."""
    faults = 0
    with Fuzzer(kinds) as fuzzer:
        for name in names:
            started, counts = time.perf_counter(), Counter[str]()
            for outcome in fuzzer.outcomes(name, cases, first):
                counts[outcome.what] += 1
                if outcome.what not in SOUND and counts[outcome.what] <= 3:
                    print(
                        f"{name}, case {outcome.case}: {outcome.what}: {outcome.message}",
                        file=sys.stderr,
                        flush=True,
                    )
            bad = {what: count for what, count in counts.items() if what not in SOUND}
            faults += sum(bad.values())
            told = ", ".join(f"{count} {what}" for what, count in bad.items()) or "none"
            print(
                f"| fuzz: {name} | {cases:,} | {counts['result']:,} read, "
                f"{counts['refused']:,} refused, {time.perf_counter() - started:.0f} s | {told} |",
                flush=True,
            )
    return faults
