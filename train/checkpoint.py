"""Checkpoints: what an interrupted run goes on from.

All of it is safetensors and JSON. A checkpoint is written beside its place and then renamed, so it
is never half written.
"""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.files import InputError, read_object, write_json
from minibert.formats.tensors import is_finite, read_tensors, save_tensors
from train.settings import Settings, as_now


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
        """Whether all epochs or steps are done, with the evaluation after them, or the last
        evaluations were no better."""
        impatient = 0 < settings.patience <= self.evaluations_since_best
        has_all_steps = 0 < settings.max_steps <= self.step and not self.is_due
        return self.epoch > settings.epochs or has_all_steps or impatient


def save_checkpoint(
    run: Path,
    parameters: Mapping[str, nn.Parameter],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: Settings,
    data: Mapping[str, Any],
) -> None:
    """Write RUN/checkpoints/step-N, and remove all but the last `settings.keep`. Raises InputError
    if the disk refuses.

    best: the parameters' values at the best evaluation so far; empty before the first. data: the
    fingerprint of what is trained on.
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
    state = {"settings": asdict(settings), "progress": asdict(progress), "data": data}
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    # A checkpoint of the same step differs only in an evaluation that has come since, which would
    # find the same again. So its files can be replaced one after the other.
    target = folder if folder.exists() else beside
    try:
        save_tensors(tensors, target / "tensors.safetensors")
        write_json(target / "state.json", state)
        if target is beside:
            os.replace(beside, folder)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; the checkpoint before it is whole"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    remove_old(run, settings.keep)


def remove_old(run: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints of a run."""
    for old in checkpoints(run)[:-keep]:
        beside = old.with_name(f".{old.name}.tmp")  # half removed, it must not count as one
        with suppress(OSError):
            os.replace(old, beside)
        shutil.rmtree(beside, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def has_results(run: Path) -> bool:
    """Whether a folder holds what a run computed: a checkpoint, or the metrics of its end."""
    return bool(checkpoints(run)) or (run / "metrics.json").exists()


def read_progress(run: Path, settings: Settings) -> Progress:
    """Where the newest checkpoint of a run stands.

    Raises InputError if the run is finished, if there is no checkpoint, or if it is of other
    settings.
    """
    has_metrics = (run / "metrics.json").exists()
    finished = InputError(
        f"{run} is finished: its metrics stand in {run / 'metrics.json'}. To train it longer, give "
        "--epochs too, or --max-steps if it has that"
    )
    if has_metrics and not checkpoints(run):  # nothing was learnt
        raise finished
    file, content = read_state(run)
    try:
        noted = dict(content["progress"])
        if "worse" in noted:  # what earlier versions called it
            noted["evaluations_since_best"] = noted.pop("worse")
        if isinstance(noted.get("seconds"), int | float):  # which did not note what they were for
            noted["seconds"] = {"training": noted["seconds"]}
        progress, saved = Progress(**noted), Settings(**as_now(content["settings"]))
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{file} is no state of a run: {error}") from error
    for key, value in asdict(saved).items():
        if value != getattr(settings, key):
            raise InputError(
                f"{run / 'settings.toml'} is not what the checkpoint {file.parent.name} was made "
                f"with: {key} was {value!r} and is {getattr(settings, key)!r}. Put it back, or "
                "start a new run"
            )
    if has_metrics and progress.is_over(settings):
        raise finished
    return progress


def read_state(run: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint's state.json, and its content. Raises InputError if there is none."""
    found = checkpoints(run)
    if not found:
        raise InputError(
            f"{run} has no checkpoint to go on from (one is written every save_steps steps, and "
            f"when a run is interrupted): --resume {run} alone starts it from the beginning"
        )
    return found[-1] / "state.json", read_object(found[-1] / "state.json")


def check_data(run: Path, data: Mapping[str, Any]) -> None:
    """Raise InputError, naming what has changed, if the newest checkpoint is of other data. Earlier
    versions did not note it.

    data: the fingerprint of the data that the run would go on with.
    """
    before = read_state(run)[1].get("data")
    if before is None or before == data:
        return
    changes = [
        f"the labels of {name} were {', '.join(then)} and are {', '.join(now)}"
        for name in sorted(before["labels"].keys() | data["labels"].keys())
        if (then := before["labels"].get(name, ["none"]))
        != (now := data["labels"].get(name, ["none"]))
    ]
    if len(before["sets"]) != len(data["sets"]):
        changes.append(f"there were {len(before['sets'])} data sets, and now {len(data['sets'])}")
    for old, new in zip(before["sets"], data["sets"], strict=False):
        for split in sorted(old["splits"].keys() | new["splits"].keys()):
            then, now = ({"examples": 0} | one["splits"].get(split, {}) for one in (old, new))
            place = f"the {split} split of {new['name']}"
            if then["examples"] != now["examples"]:
                changes.append(f"{place} had {then['examples']} examples and has {now['examples']}")
            elif then != now:
                changes.append(f"{place} has other texts or labels")
    raise InputError(
        f"the data is not what {run} was trained on: {'; '.join(changes)}. Put it back, or start a "
        "new run"
    )


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
    not fit, or that holds NaN or infinite numbers."""
    for name in parameters.keys() ^ tensors.keys():
        raise InputError(f"{file} belongs to another model: {name} is in only one of them")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise InputError(
                    f"{file}: {name} has {list(tensors[name].shape)}, and here "
                    f"{list(parameter.shape)}"
                )
            if not is_finite(tensors[name]):
                raise InputError(f"{file}: {name} holds NaN or infinite numbers")
            parameter.copy_(tensors[name])
