"""A folder of config.json and safetensors <-> a model, with a report of every tensor."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from minibert.files import InputError, escaped, read_object, write_json
from minibert.formats.config import AnyConfig, Config, config_content, family_of, read_config
from minibert.formats.families import BERT, FAMILIES, Family
from minibert.formats.names import checkpoint_name, model_name
from minibert.formats.tensors import (
    is_finite,
    open_safetensors,
    save_tensors,
    tensor_names,
    weight_files,
)

Model = TypeVar("Model", bound=nn.Module)

# The classes of transformers that put a head for a task on a BERT.
HEADS = (
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "BertForMultipleChoice",
)

PROBLEMS = ("missing", "unexpected", "wrong shape", "not finite")  # of a tensor


class HeadWarning(UserWarning):
    """A folder holds a trained head beside its encoder, and only the encoder is used."""


@dataclass(frozen=True)
class TensorEntry:
    """What became of one tensor of a checkpoint, or of one parameter of the model."""

    name: str  # in the file; the parameter's checkpoint name if the file lacks it
    status: str  # "loaded", "renamed", "tied", "ignored", or one of PROBLEMS
    shape: tuple[int, ...]
    dtype: str
    note: str = ""  # the parameter that was filled, or why not


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a checkpoint."""

    files: tuple[Path, ...]
    entries: tuple[TensorEntry, ...]
    family: Family = BERT

    @property
    def counts(self) -> Counter[str]:
        return Counter(entry.status for entry in self.entries)

    def head(self) -> list[str]:
        """The names of the tensors of a fine-tuned head."""
        return [entry.name for entry in self.entries if is_of_head(entry.name, self.family)]

    def raise_for_problems(self) -> None:
        """Raise InputError, naming each tensor, if there is one of PROBLEMS."""
        problems = [e for e in self.entries if e.status in PROBLEMS]
        if problems:
            lines = [
                f"  {e.status}: {e.name} {list(e.shape)}" + (f" ({e.note})" if e.note else "")
                for e in problems
            ]
            more = [f"  and {len(lines) - 10} more"] if len(lines) > 10 else []
            files = ", ".join(map(str, self.files))
            raise InputError(
                "\n".join(
                    [
                        f"{files} does not hold the BERT that config.json describes:",
                        *lines[:10],
                        *more,
                    ]
                )
            )


def load_state(
    parameters: Mapping[str, Tensor],
    files: Iterable[Path],
    dtype: torch.dtype = torch.float32,
    family: Family = BERT,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Read the tensors of a checkpoint that fill the given parameters.

    parameters: by their names, tensors of the wanted shapes (on any device, "meta" too). Tensors
    are converted to `dtype`. Returns them by the parameters' names, and what became of each tensor
    of the files, problems included. Raises InputError if a file is no safetensors file.
    """
    files = tuple(files)
    state: dict[str, Tensor] = {}
    entries: list[TensorEntry] = []
    given = {model_name(name, family) for file in files for name in tensor_names(file)}
    # What the files hold by its second name only fills the parameter.
    alone = {name: ours for name, ours in family.ties.items() if ours not in given}
    twice: list[tuple[Path, str]] = []
    for file in files:
        with open_safetensors(file) as tensors:
            for name in sorted(tensors.keys()):
                if name in family.ties.keys() - alone and "masked_words.bias" in parameters:
                    twice.append((file, name))
                    continue
                target = alone.get(name) or model_name(name, family)
                given.add(target)
                view = tensors.get_slice(name)
                shape, stored = tuple(view.get_shape()), view.get_dtype()
                status, note = _classify(name, target, shape, stored, parameters, state, family)
                if status in ("loaded", "renamed"):
                    state[note] = tensors.get_tensor(name).to(dtype, copy=True)
                    if not is_finite(state[note]):
                        status, note = "not finite", f"as {dtype} it holds NaN or infinite numbers"
                entries.append(TensorEntry(name, status, shape, stored, note))
    # checked last: by now, what they must equal has been read
    entries += [_tie(file, name, state, family) for file, name in twice]
    for name, parameter in parameters.items():
        if name not in given:
            spelled, shape = checkpoint_name(name, family), tuple(parameter.shape)
            entries.append(TensorEntry(spelled, "missing", shape, "", name))
    return state, LoadReport(files, tuple(entries), family)


def _classify(
    name: str,
    target: str | None,
    shape: tuple[int, ...],
    stored: str,
    parameters: Mapping[str, Tensor],
    filled: Mapping[str, Tensor],
    family: Family,
) -> tuple[str, str]:
    """The status of one tensor of a file, and the parameter that it fills or the reason why it
    fills none. target: the parameter of its name."""
    if name.endswith("position_ids"):
        return "ignored", "the numbers 0, 1, 2 ..., which old versions saved"
    if target is None or target not in parameters:
        if not family.is_of_encoder(name):
            return "ignored", "no part of the encoder: a head, as a rule"
        if (target or "").startswith("pooler.") and "pooler.dense.weight" not in parameters:
            return "ignored", "the pooler was not asked for"
        return "unexpected", "config.json describes no such parameter"
    if target in filled:
        return "unexpected", f"{target} is filled already, from another spelling of its name"
    if not re.fullmatch(r"F64|F32|F16|BF16|F8_\w+", stored):
        return "unexpected", f"of dtype {stored}, and weights are floats of 8 to 64 bits"
    if shape != tuple(parameters[target].shape):
        return "wrong shape", f"{target} has {list(parameters[target].shape)}"
    return ("loaded" if name == checkpoint_name(target, family) else "renamed"), target


def _tie(file: Path, name: str, state: Mapping[str, Tensor], family: Family) -> TensorEntry:
    """What became of a tensor that is not needed itself, since it must equal one that is
    loaded."""
    with open_safetensors(file) as tensors:
        tensor, stored = tensors.get_tensor(name), tensors.get_slice(name).get_dtype()
    target = family.ties[name]
    if target in state and torch.equal(tensor.to(state[target].dtype), state[target]):
        status, note = "tied", f"equal to {target}"
    else:
        status, note = (
            "unexpected",
            f"the decoder's, tied to {target} here, but its values are others",
        )
    return TensorEntry(name, status, tuple(tensor.shape), stored, note)


def load_model(
    folder: Path,
    config_class: type[AnyConfig],
    build: Callable[[AnyConfig, set[str]], Model],
    dtype: torch.dtype = torch.float32,
) -> tuple[Model, LoadReport]:
    """A model with the weights of a folder, in eval mode, and the report of its tensors.

    config_class: what `read_config` makes of config.json. build: makes the model, given its config
    and the names of the parameters that the files can fill. Raises InputError, naming file, tensor
    and shapes, if the config or the weights cannot be used, or a tensor has one of PROBLEMS.
    """
    config, files = read_config(folder / "config.json", config_class), weight_files(folder)
    family = FAMILIES[config.model_type]
    present = {model_name(name, family) for file in files for name in tensor_names(file)}
    names = {name for name in present if name is not None}
    if not names:
        raise InputError(_strange_names(files, family))
    # A config may ask for a billion layers: it is refused before they are built.
    if config.num_hidden_layers > len(names):
        raise InputError(
            f"{folder / 'config.json'}: num_hidden_layers is {config.num_hidden_layers}, and the "
            f"weights hold {len(names)} tensors of a BERT in all"
        )
    try:
        with torch.device("meta"):  # shapes without memory: every parameter will be replaced
            model = build(config, names)
    except RuntimeError as error:  # sizes whose product overflows
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    known_as = {name.removeprefix("bert."): name for name, _ in model.named_parameters()}
    state, report = load_state(
        {key: model.get_parameter(name) for key, name in known_as.items()}, files, dtype, family
    )
    report.raise_for_problems()
    model.load_state_dict({known_as[key]: tensor for key, tensor in state.items()}, assign=True)
    return model.eval(), report


def _strange_names(files: Iterable[Path], family: Family) -> str:
    """What to say of files in which no name is the family's: the first names, and what a wrapper
    such as DataParallel has put before all."""
    names = sorted(name for file in files for name in tensor_names(file))
    cuts = ((name, dot.end()) for name in names for dot in re.finditer(r"\.", name))
    known = (name[:end] for name, end in cuts if model_name(name[end:], family))
    hint = (
        f"A wrapper has put {wrapper!r} before them: strip it from every name, or save the model "
        "inside the wrapper"
        if (wrapper := next(known, None))
        else f"Expected are such as {checkpoint_name('embeddings.word.weight', family)}"
    )
    return (
        f"{', '.join(map(str, files))}: no tensor has the name of a parameter of "
        f"{family.classes}Model. The first names are {', '.join(names[:3])}. {hint}"
    )


def is_of_head(name: str, family: Family) -> bool:
    """Whether a tensor of a checkpoint is neither the encoder's nor a pre-training head's."""
    return not family.is_of_encoder(name) and not name.startswith(family.heads)


def read_head(folder: Path) -> dict[str, Tensor]:
    """The tensors of the fine-tuned head in a model's folder, in float32; none if there is no head.
    Raises InputError if a file is no safetensors file."""
    head: dict[str, Tensor] = {}
    files, family = weight_files(folder), family_of(folder / "config.json")
    for file in files:
        with open_safetensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no dict
                if is_of_head(name, family):
                    head[name] = tensors.get_tensor(name).to(torch.float32, copy=True)
    return head


def warn_of_head(folder: Path, report: LoadReport, stacklevel: int) -> None:
    """Warn if a fine-tuned head in a folder was left aside. stacklevel: as of `warnings.warn`."""
    if not (names := report.head()):
        return
    config = read_object(folder / "config.json")
    architecture = ", ".join(map(str, config.get("architectures") or ["of a class unknown"]))
    labels = config.get("id2label")
    count = f", {len(labels)} labels" if isinstance(labels, dict) else ""
    parts = ", ".join(f"{part}.*" for part in dict.fromkeys(name.split(".")[0] for name in names))
    is_read = report.family.in_bert(architecture) in HEADS
    hint = f": python -m train.predict --model {folder} opens it" if is_read else ""
    warnings.warn(
        escaped(f"{report.files[0]}: the head {parts} ({architecture}{count}) is left aside{hint}"),
        HeadWarning,
        stacklevel=stacklevel + 1,
    )


def save_model(
    architecture: str, config: Config, tensors: Mapping[str, Tensor], folder: Path, **more: Any
) -> None:
    """Write config.json and model.safetensors, as the class `architecture` of `transformers` does.

    tensors: by that class's names. more: further entries of config.json. Each file is written
    beside the old one and renamed. Raises InputError if the disk refuses.
    """
    save_tensors(tensors, folder / "model.safetensors")
    content = {"architectures": [architecture], **config_content(config)}
    write_json(folder / "config.json", content | more)
