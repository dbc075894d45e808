"""Checkpoints: what an interrupted run goes on from.

All of it is safetensors and JSON, and each file notes the SHA-256 of what it holds. A checkpoint is
written beside its place and then renamed, so it is never half written.

A resumed run ends in the same bits as one that nothing interrupted, or is refused. It is refused if
a file of the checkpoint was changed, or if the settings, the data, or the model that the run began
with are others now; the message names what differs. Another number of threads, another processor
and other versions of libraries are accepted, though the last bits of sums may differ there. If
PyTorch has another version, a line says so. Checkpoints of earlier versions, which noted no SHA-256
and no model, are still read.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from minibert.files import InputError
from minibert.formats.tensors import digest, is_finite, open_safetensors, read_tensors, save_tensors
from train.origin import Origin, check_origin
from train.progress import Progress
from train.random_states import like_random_states, set_random_state
from train.sampling import count_steps
from train.settings import Settings
from train.sharding import gathered, put, whole
from train.state import State, read_state, write_state
from train.world import ALONE, World


def save_checkpoint(
    run: Path,
    parameters: Mapping[str, nn.Parameter],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    random: Mapping[str, Tensor],
    progress: Progress,
    settings: Settings,
    origin: Origin,
    world: World = ALONE,
) -> None:
    """Write RUN/checkpoints/step-N, and remove all but the last `settings.keep`. Raises InputError
    if the disk refuses.

    best: the parameters' values at the best evaluation so far; empty before the first. random: as
    `all_random_states` gives them. origin: what the run began with. world: the processes, all of
    which call this, and of which the first writes.
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
    tensors = {**gathered(tensors, world), **random}
    if not world.is_first:
        return
    folder = run / "checkpoints" / f"step-{progress.step:08}"
    state = State(settings, progress, origin, str(torch.__version__))
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    # A checkpoint of the same step differs only in an evaluation that has come since, which would
    # find the same again. So its files can be replaced one after the other.
    target = folder if folder.exists() else beside
    try:
        save_tensors(tensors, target / "tensors.safetensors", {"sha256": digest(tensors)})
        write_state(state, target / "state.json")
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
    """The checkpoints of a run, oldest first. Other names beside them are none of ours."""
    found = [
        folder
        for folder in (run / "checkpoints").glob("step-*")
        if re.fullmatch("step-[0-9]{8,18}", folder.name)
    ]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name tells."""
    return int(folder.name.removeprefix("step-"))


def damaged(folder: Path, reason: object) -> InputError:
    """The error of a checkpoint that cannot be used: why, and how to go back to the one before."""
    older = [other for other in checkpoints(folder.parents[1]) if step_of(other) < step_of(folder)]
    if older:
        hint = f"remove {folder} to go on from {older[-1].name}, which is older"
    else:
        hint = "there is no older checkpoint: start a new run"
    return InputError(f"cannot go on from {folder}: {reason}; {hint}")


def newest_state(run: Path) -> tuple[Path, State]:
    """The newest checkpoint, and what its state.json says. Raises InputError if there is none, or
    if it is damaged."""
    found = checkpoints(run)
    if not found:
        raise InputError(
            f"{run} has no checkpoint to go on from (one is written every save_steps steps, and "
            f"when a run is interrupted): --resume {run} alone starts it from the beginning"
        )
    folder = found[-1]
    try:
        state = read_state(folder / "state.json")
    except InputError as error:
        raise damaged(folder, error) from error
    if state.progress.step != step_of(folder):
        raise damaged(folder, f"its state.json is of step {state.progress.step}")
    return folder, state


def has_results(run: Path) -> bool:
    """Whether a folder holds what a run computed: a checkpoint, or the metrics of its end."""
    return bool(checkpoints(run)) or (run / "metrics.json").exists()


def read_progress(run: Path, settings: Settings) -> Progress:
    """Where the newest checkpoint of a run stands.

    Raises InputError if the run is finished, if there is no checkpoint, or if it is damaged or of
    other settings.
    """
    has_metrics = (run / "metrics.json").exists()
    finished = InputError(
        f"{run} is finished: its metrics stand in {run / 'metrics.json'}. To train it longer, give "
        "--epochs too, or --max-steps if it has that"
    )
    if has_metrics and not checkpoints(run):  # nothing was learnt
        raise finished
    folder, state = newest_state(run)
    for key, value in asdict(state.settings).items():
        if value != getattr(settings, key):
            raise InputError(
                f"{run / 'settings.toml'} is not what the checkpoint {folder.name} was made with: "
                f"{key} was {value!r:.80} and is {getattr(settings, key)!r:.80}. Put it back, or "
                "start a new run"
            )
    if has_metrics and state.progress.is_over(settings):
        raise finished
    return state.progress


def check_state(run: Path, origin: Origin, sizes: Sequence[int]) -> None:
    """Raise InputError, naming what has changed, if the newest checkpoint is of another origin than
    the run would go on with. If another version of PyTorch wrote it, say so.

    sizes: how many items each source of training data has.
    """
    folder, state = newest_state(run)
    check_origin(run, state.origin, origin)
    progress, settings = state.progress, state.settings
    is_past = progress.epoch > settings.epochs + 1
    if is_past or progress.step != (
        count_steps(sizes, settings, progress.epoch - 1) + progress.position
    ):
        raise damaged(
            folder,
            f"step {progress.step} is not step {progress.position} of epoch {progress.epoch}",
        )
    if state.torch not in ("", torch.__version__):
        print(
            f"{folder} was written with PyTorch {state.torch}, and this is {torch.__version__}: "
            "the last bits of the results may differ"
        )


def load_checkpoint(
    run: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    world: World = ALONE,
) -> dict[str, Tensor]:
    """Put the newest checkpoint's values into the parameters, the optimizer's state and the random
    generators of this process.

    Returns the best values so far. The optimizer must hold the parameters that it held when the
    checkpoint was written. Raises InputError if the checkpoint is damaged, or of another model.
    """
    folder, state = newest_state(run)
    file = folder / "tensors.safetensors"
    try:
        tensors = read_tensors(file)
        # A kill while a checkpoint of the same step was replaced leaves new tensors, with the best
        # ones, and the state from before the evaluation that found them: it will find them again.
        has_best = state.progress.best is not None or any(n.startswith("best.") for n in tensors)
        wanted: dict[str, Tensor] = {f"model.{name}": p for name, p in parameters.items()}
        if has_best:
            wanted |= {f"best.{name}": torch.empty_like(p) for name, p in parameters.items()}
        with open_safetensors(file) as opened:
            noted = (opened.metadata() or {}).get("sha256")
        if state.format and noted != digest(tensors):
            raise InputError(f"{file} was changed: its tensors are not what its SHA-256 says")
        wanted |= optimizer_state(parameters, optimizer, tensors)
        check_tensors(tensors, wanted | like_random_states(tensors), file)
        set_random_state(tensors, world, file)
    except InputError as error:
        raise damaged(folder, error) from error
    for name, tensor in wanted.items():
        put(tensor, tensors[name])
    return {n: wanted[f"best.{n}"] for n in parameters if has_best}


def optimizer_state(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The optimizer's state of the parameters that a checkpoint has some of, by its names there.

    A step with gradients of 0 makes it. So PyTorch only gets state of the shapes and types that the
    optimizer itself has chosen; others end in crashes of the process.
    """
    having = {key.rpartition(".")[0] for key in tensors if key.startswith("optimizer.")}
    names = {p: f"optimizer.{n}" for n, p in parameters.items() if f"optimizer.{n}" in having}
    for parameter in names:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in names:
        parameter.grad = None
    return {
        f"{name}.{key}": value
        for parameter, name in names.items()
        for key, value in optimizer.state[parameter].items()
    }


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: Path | str
) -> None:
    """Raise InputError, naming the tensor, unless there are those of the wanted names, shapes and
    types, of finite numbers."""
    for name in sorted(tensors.keys() ^ wanted.keys()):
        raise InputError(f"{file} belongs to another model: {name!r:.80} is in only one of them")
    for name, tensor in tensors.items():
        (shape, dtype), (its_shape, its_dtype) = (
            (list(t.shape), str(t.dtype).removeprefix("torch.")) for t in (tensor, wanted[name])
        )
        if (shape, dtype) != (its_shape, its_dtype):
            raise InputError(f"{file}: {name} is {dtype} {shape}, and here {its_dtype} {its_shape}")
        if not is_finite(tensor):
            raise InputError(f"{file}: {name} holds NaN or infinite numbers")


def fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], file: str) -> None:
    """Copy tensors into the parameters of the same names. Raises InputError, naming one that does
    not fit, or that holds NaN or infinite numbers."""
    for name in parameters.keys() ^ tensors.keys():
        raise InputError(f"{file} belongs to another model: {name} is in only one of them")
    for name, parameter in parameters.items():
        value = whole(tensors[name])
        if parameter.shape != value.shape:
            raise InputError(
                f"{file}: {name} has {list(value.shape)}, and here {list(parameter.shape)}"
            )
        if not is_finite(value):
            raise InputError(f"{file}: {name} holds NaN or infinite numbers")
        put(parameter, value)
