"""Where a run stands, and what it has found so far."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from minibert.files import InputError
from train.settings import Settings

Metrics = dict[str, dict[str, float] | float]  # of each task, and of all together


def of_task(metrics: Metrics, name: str) -> dict[str, float]:
    """The metrics of one task; none where it was not measured."""
    found = metrics.get(name)
    return found if isinstance(found, dict) else {}


class Evaluation(TypedDict):
    """What one evaluation found."""

    step: int
    epoch: int
    loss: dict[str, float]  # of training, in this epoch so far
    dev: Metrics


@dataclass
class Progress:
    """Where a run stands, as it goes into a checkpoint's state.json."""

    step: int = 0  # steps taken
    epoch: int = 1  # counted from 1
    position: int = 0  # steps taken in this epoch
    is_due: bool = False  # whether the last step's evaluation has still to come
    best: float | None = None  # the monitored metric's highest value
    best_step: int = 0
    evaluations_since_best: int = 0
    skipped: int = 0  # steps that were left out for a gradient that was not finite
    skipped_in_a_row: int = 0
    # this epoch: each task's summed loss, and what to divide it by
    losses: dict[str, list[float]] = field(default_factory=dict)
    history: list[Evaluation] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # what they were spent on

    def __post_init__(self) -> None:
        self.noted = time.perf_counter()  # when the last seconds were

    def spent(self, what: str) -> None:
        """Note what the seconds since the last note, or since the start, were spent on."""
        now = time.perf_counter()
        self.seconds[what] = self.seconds.get(what, 0.0) + now - self.noted
        self.noted = now

    def count(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Note a step that was taken."""
        self.skipped_in_a_row = 0
        for name in counts:
            total, count = self.losses.get(name, [0.0, 0.0])
            self.losses[name] = [total + sums[name], count + counts[name]]

    def skip(self) -> None:
        """Note a step that was left out."""
        self.skipped += 1
        self.skipped_in_a_row += 1

    def took_step(self, steps: int, settings: Settings) -> None:
        """Note a step, taken or left out, and whether dev is to be evaluated after it. steps: how
        many the epoch has."""
        self.step += 1
        self.position += 1
        self.is_due = (
            self.position == steps
            or self.step == settings.max_steps
            or (settings.eval_steps > 0 and self.step % settings.eval_steps == 0)
        )

    def begin_epoch(self) -> None:
        """Note that an epoch has ended."""
        self.epoch, self.position, self.losses = self.epoch + 1, 0, {}

    def evaluated(self, metrics: Metrics, monitored: float) -> None:
        """Note an evaluation, the training losses of this epoch so far, and whether it is the best
        evaluation yet."""
        self.is_due = False
        self.evaluations_since_best += 1
        if self.best is None or monitored > self.best:
            self.best, self.best_step, self.evaluations_since_best = monitored, self.step, 0
        losses = {name: total / count for name, (total, count) in self.losses.items()}
        self.history.append(
            {"step": self.step, "epoch": self.epoch, "loss": losses, "dev": metrics}
        )

    def is_over(self, settings: Settings) -> bool:
        """Whether all epochs or steps are done, with the evaluation after them, or the last
        evaluations were no better."""
        impatient = 0 < settings.patience <= self.evaluations_since_best
        has_all_steps = 0 < settings.max_steps <= self.step and not self.is_due
        return self.epoch > settings.epochs or has_all_steps or impatient

    def check(self) -> None:
        """Raise InputError, naming the value, for what no run can have come to."""
        for name, value, low, high in (
            ("step", self.step, 0, None),
            ("epoch", self.epoch, 1, self.step + 1),
            ("position", self.position, 0, self.step),
            ("best_step", self.best_step, 0, self.step),
            ("skipped", self.skipped, 0, self.step),
            ("skipped_in_a_row", self.skipped_in_a_row, 0, self.skipped),
            ("evaluations_since_best", self.evaluations_since_best, 0, len(self.history)),
            *((f"seconds.{what}", value, 0, None) for what, value in self.seconds.items()),
        ):
            if value < low or (high is not None and value > high):
                above = "" if high is None else f" and at most {high}"
                raise InputError(f"progress.{name} = {value} must be at least {low}{above}")
        if (self.best is None) != (not self.history):
            raise InputError("progress.best and progress.history must both be there, or neither")
        for name, loss in self.losses.items():
            if len(loss) != 2 or loss[1] <= 0:
                raise InputError(f"progress.losses of {name!r:.80} must be a sum and a count")
