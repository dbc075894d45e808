"""What a run keeps on disk: checkpoints to go on from, the best weights so far, and the finished
model.

All of it is safetensors and JSON, and all of it is written beside and renamed: none is ever half
written.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.encoder import SentenceEncoder
from minibert.fast import speed_up
from minibert.files import (
    InputError,
    read_json,
    read_object,
    read_text,
    replacing,
    write_json,
)
from minibert.formats.cards import write_card
from minibert.formats.checkpoint import save_model
from minibert.formats.names import checkpoint_name
from minibert.formats.tensors import open_safetensors, save_tensors
from minibert.tokenizer import Tokenizer
from train.settings import Settings, read_settings
from train.tasks import JointModel, PairSimilarity, Task, describe, task_from

PIPELINES = {
    "BertForSequenceClassification": "text-classification",
    "BertForTokenClassification": "token-classification",
}


@dataclass
class Progress:
    """Where a run stands, as it goes into a checkpoint's state.json."""

    step: int = 0  # steps taken
    epoch: int = 1  # counted from 1
    position: int = 0  # steps taken in this epoch
    best: float | None = None  # the monitored metric's highest value
    best_step: int = 0
    worse: int = 0  # evaluations since then
    skipped: int = 0  # steps that were left out for a gradient that was not finite
    skipped_in_a_row: int = 0
    # each task's loss and targets summed, this epoch
    losses: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)  # what each evaluation found
    seconds: float = 0.0

    def count(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Note a step that was taken."""
        self.skipped_in_a_row = 0
        for name in counts:
            total, targets = self.losses.get(name, [0.0, 0.0])
            self.losses[name] = [total + sums[name], targets + counts[name]]

    def mean_losses(self) -> dict[str, float]:
        """Each task's training loss a target, over this epoch so far."""
        return {name: total / targets for name, (total, targets) in self.losses.items()}

    def start_next_epoch(self) -> None:
        self.epoch, self.position, self.losses = self.epoch + 1, 0, {}


def parameters_by_name(model: JointModel, mixer: nn.Module) -> dict[str, nn.Parameter]:
    """All that a run may learn."""
    return dict(model.named_parameters()) | {
        f"loss.{name}": p for name, p in mixer.named_parameters()
    }


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
            f"{run} has no checkpoint to go on from (one is written every save_steps steps, and when a run is "
            "interrupted): start anew, in another folder or after removing this one"
        )
    file = found[-1] / "state.json"
    content = read_object(file)
    try:
        progress, saved = Progress(**content["progress"]), Settings(**content["settings"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{file} is no state of a run: {error}") from error
    for key, value in asdict(saved).items():
        if value != getattr(settings, key):
            raise InputError(
                f"{run / 'settings.toml'} is not what the checkpoint {found[-1].name} was made with: {key} was "
                f"{value!r} and is {getattr(settings, key)!r}. Put it back, or start a new run"
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


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    with open_safetensors(file) as tensors:
        return {name: tensors.get_tensor(name).clone() for name in tensors.keys()}  # noqa: SIM118 (not a dict)


def fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], file: str) -> None:
    """Copy tensors into the parameters of the same names. Raises InputError, naming one that does
    not fit."""
    for name in parameters.keys() ^ tensors.keys():
        raise InputError(f"{file} belongs to another model: {name} is in only one of them")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise InputError(
                    f"{file}: {name} has {list(tensors[name].shape)}, and here {list(parameter.shape)}"
                )
            parameter.copy_(tensors[name])


def save_run(
    run: Path,
    encoder: SentenceEncoder,
    model: JointModel,
    tasks: Sequence[Task],
    split_words: str,
    facts: Mapping[str, Any],
    training: str,
) -> None:
    """Write RUN/model (which SentenceEncoder, sentence-transformers and transformers open), and the
    heads beside it.

    facts, training: for the model card, as in `SentenceEncoder.save_pretrained`.
    """
    for task in tasks:
        if isinstance(task, PairSimilarity):  # its sentence vectors are what was trained
            encoder.settings = replace(encoder.settings, pooling=task.pooling)
    encoder.save_pretrained(run / "model", facts=facts, training=training)
    heads = {
        f"{name}.{key}": p
        for name, head in model.heads.items()
        for key, p in head.named_parameters()
    }
    save_tensors(heads, run / "heads.safetensors")
    write_json(
        run / "tasks.json",
        {"split_words": split_words, "tasks": [describe(task) for task in tasks]},
    )


def save_for_transformers(
    run: Path,
    tokenizer: Tokenizer,
    model: JointModel,
    tasks: Sequence[Task],
    facts: Mapping[str, Any],
    training: str,
) -> None:
    """Write RUN/transformers/TASK, encoder and head as one model, for each task that a class of
    transformers computes.

    Of any other it is said that there is none: written all the same, the weights would compute
    something else.
    """
    for task in tasks:
        if task.transformers_class is None:
            print(
                f"{task.name}: not saved for transformers, none of whose classes computes it; a sentence head there "
                "pools by the pooler"
            )
            continue
        # A label may be called "stars/5", and no folder may be.
        folder = (
            run
            / "transformers"
            / re.sub(r"[/\\\0]", lambda found: f"%{ord(found[0]):02X}", task.name)
        )
        bert, head = model.bert, model.heads[task.name]
        used = [
            (name, p)
            for name, p in bert.named_parameters()
            if task.uses_pooler or not name.startswith("pooler.")
        ]
        # a number is one label to transformers, as if it were a class
        names = task.labels or (task.name,)
        save_model(
            task.transformers_class,
            bert.config,
            {checkpoint_name(f"bert.{name}"): p for name, p in used}
            | dict(head.named_parameters()),
            folder,
            id2label={str(i): name for i, name in enumerate(names)},
            label2id={name: i for i, name in enumerate(names)},
            problem_type=None if task.labels else "regression",
        )
        tokenizer.save(folder)
        about = {
            "library_name": "transformers",
            "pipeline_tag": PIPELINES[task.transformers_class],
            "tags": ["bert"],
        }
        write_card(folder / "README.md", about | dict(facts), f"# {task.name}\n\n{training}")


@dataclass
class Run:
    """A finished run, opened: all that predicting needs."""

    model: JointModel
    encoder: SentenceEncoder
    tasks: list[Task]
    split_words: str  # "whitespace" or "punctuation": how a text becomes words
    settings: Settings


def load_run(run: Path, device: torch.device | str = "cpu") -> Run:
    """Open a finished run, in eval mode. Raises InputError if the folder is none, or is damaged."""
    if not (run / "tasks.json").exists():
        raise InputError(f"{run} is no finished run: it has no tasks.json")
    content = read_json(run / "tasks.json")
    try:
        tasks = [task_from(description) for description in content["tasks"]]
        split_words = str(content["split_words"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / 'tasks.json'} does not describe tasks: {error!r}") from error
    encoder = SentenceEncoder.from_pretrained(run / "model", device=device)
    model = JointModel(encoder.bert, tasks)
    speed_up(model.bert)
    fill(
        dict(model.heads.named_parameters()),
        read_tensors(run / "heads.safetensors"),
        f"{run / 'heads.safetensors'}",
    )
    settings = Settings(**read_settings(run / "settings.toml"))
    return Run(model.to(device).eval(), encoder, tasks, split_words, settings)


def append_log(run: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to RUN/log.jsonl; what is not finite becomes null, as JSON has no word for it."""
    line = json.dumps(json.loads(json.dumps(entry), parse_constant=lambda _: None)) + "\n"
    try:
        with (run / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line)
    except OSError as error:
        raise InputError(f"cannot write {run / 'log.jsonl'}: {error.strerror}") from error


def cut_log(run: Path, step: int) -> None:
    """Drop what RUN/log.jsonl says of steps after a checkpoint: they are about to be taken
    again."""
    file = run / "log.jsonl"
    if file.exists():
        # what follows the last \n a killed program did not finish
        lines = read_text(file).split("\n")[:-1]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        with replacing(file) as beside:
            beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
