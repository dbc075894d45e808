"""Checkpoints: what an interrupted run goes on from.

All of it is safetensors and JSON. A checkpoint is written beside its place and then renamed, so it
is never half written.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.files import InputError, read_object, write_json
from minibert.formats.tensors import read_tensors, save_tensors
from train.settings import Settings


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
    history: list[dict[str, Any]] = field(default_factory=list)  # what each evaluation found
    seconds: float = 0.0

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
        self.is_due = self.position == steps or (
            settings.eval_steps > 0 and self.step % settings.eval_steps == 0
        )

    def begin_epoch(self) -> None:
        """Note that an epoch has ended."""
        self.epoch, self.position, self.losses = self.epoch + 1, 0, {}

    def evaluated(self, metrics: Mapping[str, Any], monitored: float) -> None:
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
        """Whether all epochs are done, or the last evaluations were no better."""
        impatient = 0 < settings.patience <= self.evaluations_since_best
        return self.epoch > settings.epochs or impatient


def save_checkpoint(
    run: Path,
    parameters: Mapping[str, nn.Parameter],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: Settings,
) -> None:
    """Write RUN/checkpoints/step-N, and remove all but the last `settings.keep`. Raises InputError
    if the disk refuses.

    best: the parameters' values at the best evaluation so far; empty before the first.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    tensors: dict[str, Tensor] = {
        f"model.{name}": parameter for name, parameter in parameters.items()
    }
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for parameter, state in optimizer.state.items():
        tensors |= {
            f"optimizer.{names[id(parameter)]}.{key}": value for key, value in state.items()
        }
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    folder = run / "checkpoints" / f"step-{progress.step:08}"
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        save_tensors(tensors, beside / "tensors.safetensors")
        write_json(
            beside / "state.json", {"settings": asdict(settings), "progress": asdict(progress)}
        )
        os.replace(beside, folder)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; the checkpoint before it is whole"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for old in checkpoints(run)[: -settings.keep]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def read_progress(run: Path, settings: Settings) -> Progress:
    """Where the newest checkpoint of a run stands.

    Raises InputError if the run is finished, if there is no checkpoint, or if it is of other
    settings.
    """
    if (run / "metrics.json").exists():
        raise InputError(f"{run} is finished: its metrics stand in {run / 'metrics.json'}")
    found = checkpoints(run)
    if not found:
        raise InputError(
            f"{run} has no checkpoint to go on from (one is written every save_steps steps, and "
            "when a run is interrupted): start anew, in another folder or after removing this one"
        )
    file = found[-1] / "state.json"
    content = read_object(file)
    try:
        noted = dict(content["progress"])
        if "worse" in noted:  # what earlier versions called it
            noted["evaluations_since_best"] = noted.pop("worse")
        progress, saved = Progress(**noted), Settings(**content["settings"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{file} is no state of a run: {error}") from error
    for key, value in asdict(saved).items():
        if value != getattr(settings, key):
            raise InputError(
                f"{run / 'settings.toml'} is not what the checkpoint {found[-1].name} was made "
                f"with: {key} was {value!r} and is {getattr(settings, key)!r}. Put it back, or "
                "start a new run"
            )
    return progress


def load_checkpoint(
    run: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Put the newest checkpoint's values into the parameters, the optimizer's state and the random
    generators.

    Returns the best values so far. The optimizer must hold the parameters that it held when the
    checkpoint was written. Raises InputError if the checkpoint is of another model.
    """
    file = checkpoints(run)[-1] / "tensors.safetensors"
    tensors = read_tensors(file)
    fill(
        parameters,
        {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")},
        str(file),
    )
    for name, parameter in parameters.items():
        start = f"optimizer.{name}."
        if state := {
            key.removeprefix(start): value
            for key, value in tensors.items()
            if key.startswith(start)
        }:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in state.items()
            }
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return {
        name.removeprefix("best."): value
        for name, value in tensors.items()
        if name.startswith("best.")
    }


def fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], file: str) -> None:
    """Copy tensors into the parameters of the same names. Raises InputError, naming one that does
    not fit."""
    for name in parameters.keys() ^ tensors.keys():
        raise InputError(f"{file} belongs to another model: {name} is in only one of them")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise InputError(
                    f"{file}: {name} has {list(tensors[name].shape)}, and here "
                    f"{list(parameter.shape)}"
                )
            parameter.copy_(tensors[name])
