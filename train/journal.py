"""What a run tells as it goes: lines on the screen, RUN/log.jsonl, and TensorBoard's files."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minibert.files import InputError, read_bytes, read_lines, write_text
from train.batches import Batch
from train.progress import Progress
from train.report import shown
from train.settings import Settings
from train.step import StepLosses, skipped
from train.tasks.base import Task


class Journal:
    """Tells of steps and evaluations. Raises InputError if TensorBoard is asked for and not
    installed.

    writes: whether this process is the one that writes files. All of them may print.
    """

    def __init__(
        self,
        run: Path,
        settings: Settings,
        tasks: Sequence[Task],
        progress: Progress,
        writes: bool = True,
    ) -> None:
        self.run, self.tasks, self.progress, self.writes = run, tasks, progress, writes
        has_board = settings.tensorboard and writes
        self.board = tensorboard(run, progress.step) if has_board else None
        self.bar: tqdm | None = None

    def close(self) -> None:
        """Remove the progress bar, and close TensorBoard's files."""
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()

    def begin_epoch(self, steps: int) -> None:
        """Start a progress bar, on stderr; there is none where that is no terminal."""
        if self.bar is not None:
            self.bar.close()
        self.bar = tqdm(
            total=steps,
            initial=self.progress.position,
            desc=f"epoch {self.progress.epoch}",
            unit="step",
            disable=None,
            leave=False,
        )
        self.start, self.num_tokens = time.perf_counter(), 0
        self.speed = 0.0  # tokens a second in this epoch

    def note_step(
        self, batches: Sequence[Batch], losses: StepLosses, norm: float, rate: float
    ) -> None:
        """Log a step that was taken or skipped. rate: what share of its highest learning rate each
        unit had."""
        means = losses.means()
        noted = {"loss": means, "norm": norm, "rate": rate, **losses.gradients}
        place = {"step": self.progress.step, "epoch": self.progress.epoch}
        if self.writes:
            append_log(self.run, place | noted)
        if self.progress.skipped_in_a_row:
            if self.bar is not None:
                self.bar.clear()
            print(skipped(self.progress.step, losses, batches), flush=True)
        if self.board is not None:
            add_scalars(self.board, "train", noted, self.progress.step)
        self.num_tokens += losses.tokens
        seconds = time.perf_counter() - self.start or math.inf  # a clock may stand still
        self.speed = self.num_tokens / seconds
        if self.bar is not None:
            words = {name: f"{loss:.3f}" for name, loss in means.items()}
            self.bar.set_postfix(words | {"tok/s": f"{self.speed:,.0f}"}, refresh=False)
            self.bar.update()

    def note_evaluation(self) -> None:
        """Print and log the last evaluation."""
        progress, entry = self.progress, self.progress.history[-1]
        if self.writes:
            append_log(self.run, entry)
        if self.board is not None:
            add_scalars(self.board, "dev", entry["dev"], progress.step)
        if self.bar is not None:
            self.bar.clear()
        losses = "  ".join(f"{name} {value:.4f}" for name, value in entry["loss"].items())
        best = "  (best)" if progress.best_step == progress.step else ""
        print(
            f"epoch {progress.epoch}  step {progress.step}  loss {losses}  "
            f"dev {shown(entry['dev'], self.tasks)}  {self.speed:,.0f} tokens/s{best}",
            flush=True,
        )


def append_log(run: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to RUN/log.jsonl. NaN and infinities become null, since JSON has neither."""
    line = json.dumps(json.loads(json.dumps(entry), parse_constant=lambda _: None)) + "\n"
    try:
        with (run / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line)
    except OSError as error:
        raise InputError(f"cannot write {run / 'log.jsonl'}: {error.strerror}") from error


def read_log(run: Path) -> list[dict[str, Any]]:
    """All lines of RUN/log.jsonl; none if nothing was trained."""
    file = run / "log.jsonl"
    return [json.loads(line) for line in read_lines(file)] if file.exists() else []


def cut_log(run: Path, step: int, is_due: bool = False) -> None:
    """Drop what RUN/log.jsonl says of steps after a checkpoint, which will be taken again; and of
    the evaluation of its own step, if that is still due; and lines that say no step, such as the
    zeros that a power cut can leave. It says how many these are."""
    file = run / "log.jsonl"
    if file.exists():
        # a killed program may have left a last line without its end
        lines = read_bytes(file).split(b"\n")[:-1]
        entries = [_entry(line) for line in lines]
        kept = [
            line.decode()
            for line, entry in zip(lines, entries, strict=True)
            if entry is not None
            and (
                entry["step"] < step or (entry["step"] == step and not (is_due and "dev" in entry))
            )
        ]
        write_text(file, "".join(f"{line}\n" for line in kept))
        if damaged := entries.count(None):
            print(f"{file}: {damaged} lines that say no step were left out")


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line of the log says; None if it says no step."""
    try:
        entry = json.loads(line.decode())
        return entry if type(entry["step"]) is int else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def tensorboard(run: Path, step: int) -> Any:
    """A writer of RUN/tensorboard. What the files say of steps after `step` no longer counts, since
    a resumed run takes them again. Raises InputError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tensorboard = true needs the tensorboard package: install it (pip install "
            "tensorboard), or leave this out"
        ) from error
    return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)


def add_scalars(board: Any, name: str, values: Mapping[str, Any], step: int) -> None:
    """Write numbers to TensorBoard; a mapping inside a mapping is a folder there:
    "dev/intent/accuracy"."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            add_scalars(board, f"{name}/{key}", value, step)
        else:
            board.add_scalar(f"{name}/{key}", value, step)
