"""safetensors files <-> the model's own names, with a report of every tensor.

Two spellings are found in the wild, and both are read: names with the prefix `bert.` or without,
and layer norms called `LayerNorm.gamma/beta` (bert-base-uncased) or `LayerNorm.weight/bias`. What
we write is as `transformers` does: never `gamma`, and `bert.` only where a head stands on the
encoder. safetensors is data only: nothing here unpickles.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from minibert.files import InputError, read_object, replacing, write_json
from minibert.model import Bert, BertConfig

Model = TypeVar("Model", bound=nn.Module)

# The model's names beside the checkpoint's: a prefix each, {i} for a layer's number.
NAMES = (
    ("embeddings.word.", "embeddings.word_embeddings."),
    ("embeddings.position.", "embeddings.position_embeddings."),
    ("embeddings.token_type.", "embeddings.token_type_embeddings."),
    ("embeddings.norm.", "embeddings.LayerNorm."),
    ("layers.{i}.attention.query.", "encoder.layer.{i}.attention.self.query."),
    ("layers.{i}.attention.key.", "encoder.layer.{i}.attention.self.key."),
    ("layers.{i}.attention.value.", "encoder.layer.{i}.attention.self.value."),
    ("layers.{i}.attention.output.", "encoder.layer.{i}.attention.output.dense."),
    ("layers.{i}.attention_norm.", "encoder.layer.{i}.attention.output.LayerNorm."),
    ("layers.{i}.feed_forward.intermediate.", "encoder.layer.{i}.intermediate.dense."),
    ("layers.{i}.feed_forward.output.", "encoder.layer.{i}.output.dense."),
    ("layers.{i}.feed_forward_norm.", "encoder.layer.{i}.output.LayerNorm."),
    ("pooler.dense.", "pooler.dense."),
    ("masked_words.dense.", "cls.predictions.transform.dense."),
    ("masked_words.norm.", "cls.predictions.transform.LayerNorm."),
    ("masked_words.bias", "cls.predictions.bias"),
    ("next_sentence.", "cls.seq_relationship."),
)
# What some checkpoints hold a second time: the masked-word head's decoder is the word embeddings,
# and has one bias.
TIES = {
    "cls.predictions.decoder.weight": "embeddings.word.weight",
    "cls.predictions.decoder.bias": "masked_words.bias",
}
ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")


def checkpoint_name(name: str) -> str:
    """A parameter's name in the files that we write: `layers.3.attention_norm.weight` ->
    `encoder.layer.3.attention.output.LayerNorm.weight`. A `bert.` before it stays."""
    inner = name.removeprefix("bert.")
    translated = _translate(inner, NAMES)
    assert translated is not None, name
    return name.removesuffix(inner) + translated


def model_name(name: str) -> str | None:
    """The parameter that a tensor of a checkpoint fills, whichever its spelling; None if BERT has
    no such part."""
    name = re.sub(
        r"(?<=LayerNorm\.)gamma$", "weight", re.sub(r"(?<=LayerNorm\.)beta$", "bias", name)
    )
    return _translate(name.removeprefix("bert."), [(theirs, ours) for ours, theirs in NAMES])


def _translate(name: str, prefixes: Iterable[tuple[str, str]]) -> str | None:
    number = re.search(r"(?<=\.)\d+(?=\.)", name)
    pattern = name if number is None else name[: number.start()] + "{i}" + name[number.end() :]
    for old, new in prefixes:
        if pattern.startswith(old):
            return (new + pattern[len(old) :]).replace("{i}", number[0] if number else "")
    return None


@dataclass(frozen=True)
class TensorEntry:
    """What became of one tensor of a checkpoint, or of one parameter of the model."""

    name: str  # in the file; the parameter's checkpoint name if the file lacks it
    status: str  # "loaded", "renamed", "tied", "ignored", "missing", "unexpected" or "wrong shape"
    shape: tuple[int, ...]
    dtype: str
    note: str = ""  # the parameter that was filled, or why not


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a checkpoint."""

    files: tuple[Path, ...]
    entries: tuple[TensorEntry, ...]

    @property
    def counts(self) -> Counter[str]:
        return Counter(entry.status for entry in self.entries)

    def raise_for_problems(self) -> None:
        """Raise InputError, naming each tensor, if something is missing, unexpected or of a wrong
        shape."""
        problems = [e for e in self.entries if e.status in ("missing", "unexpected", "wrong shape")]
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


def read_config(folder: Path) -> BertConfig:
    """The config.json of a model folder.

    The sizes must be there; what newer versions added (dropout, epsilon …) has the original's value
    where it is absent. Raises InputError, naming file, key and value, for what is missing, absurd,
    or not a plain BERT encoder.
    """
    file = folder / "config.json"
    content = read_object(file)
    expected = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
    for key, value in (expected | {"add_cross_attention": False}).items():
        if content.get(key, value) != value:
            raise InputError(
                f"{file}: {key} is {content[key]!r}, and this BERT can only be {value!r}"
            )
    required = [field.name for field in fields(BertConfig)[:6]]
    if missing := [key for key in required if key not in content]:
        raise InputError(
            f"{file}: {', '.join(missing)} missing; a BERT's config names all of {', '.join(required)}"
        )
    try:
        return BertConfig(
            **{f.name: content[f.name] for f in fields(BertConfig) if f.name in content}
        )
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder: model.safetensors, or the shards that
    model.safetensors.index.json lists."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return (single,)
    if not index.exists():
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        hint = f" ({', '.join(pickles)} is a pickle, which is never opened here)" if pickles else ""
        raise InputError(f"{folder} has no model.safetensors and no {index.name}{hint}")
    weight_map = read_object(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(v, str) for v in weight_map.values())
    ):
        raise InputError(f"{index}: weight_map must map tensor names to files")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise InputError(f"{index}: weight_map names {shard!r}, which is no file in {folder}")
    return tuple(folder / shard for shard in shards)


def load_state(
    parameters: Mapping[str, Tensor], files: Iterable[Path], dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], LoadReport]:
    """Read the tensors of a checkpoint that fill the given parameters.

    parameters: name -> a tensor of the wanted shape (on any device, "meta" too). Floats of any
    width become `dtype`. Returns tensors by the parameters' names, and what became of each tensor:
    problems stand in the report. Raises InputError if a file is no safetensors file.
    """
    files = tuple(files)
    state: dict[str, Tensor] = {}
    entries: list[TensorEntry] = []
    twice: list[tuple[Path, str]] = []
    for file in files:
        with open_safetensors(file) as tensors:
            for name in sorted(tensors.keys()):
                if name in TIES and "masked_words.bias" in parameters:
                    twice.append((file, name))
                    continue
                view = tensors.get_slice(name)
                shape, stored = tuple(view.get_shape()), view.get_dtype()
                status, note = _fate(name, shape, stored, parameters, state)
                if status in ("loaded", "renamed"):
                    state[note] = tensors.get_tensor(name).to(dtype, copy=True)
                entries.append(TensorEntry(name, status, shape, stored, note))
    # when all that they may be equal to is there
    entries += [_tie(file, name, state) for file, name in twice]
    present = {model_name(entry.name) for entry in entries}
    for name, parameter in parameters.items():
        if name not in present:
            entries.append(
                TensorEntry(checkpoint_name(name), "missing", tuple(parameter.shape), "", name)
            )
    return state, LoadReport(files, tuple(entries))


def _fate(
    name: str,
    shape: tuple[int, ...],
    stored: str,
    parameters: Mapping[str, Tensor],
    filled: Mapping[str, Tensor],
) -> tuple[str, str]:
    """The status of one tensor of a file, and the parameter it fills or the reason why it fills
    none."""
    target = model_name(name)
    if name.endswith("position_ids"):
        return "ignored", "the numbers 0, 1, 2 ..., which old versions saved"
    if target not in parameters and not name.removeprefix("bert.").startswith(ENCODER_PARTS):
        return "ignored", "a head, no part of the encoder"
    if target is None or target not in parameters:
        if target is not None and target.startswith("pooler."):
            return "ignored", "the pooler was not asked for"
        return "unexpected", "config.json describes no such parameter"
    if target in filled:
        return "unexpected", f"{target} is filled already, from another spelling of its name"
    if not re.fullmatch(r"F64|F32|F16|BF16|F8_\w+", stored):
        return "unexpected", f"of dtype {stored}, and weights are floats of 8 to 64 bits"
    if shape != tuple(parameters[target].shape):
        return "wrong shape", f"{target} has {list(parameters[target].shape)}"
    return ("loaded" if name == checkpoint_name(target) else "renamed"), target


def _tie(file: Path, name: str, state: Mapping[str, Tensor]) -> TensorEntry:
    """What became of a tensor that must be equal to one that is loaded, and is then not needed
    itself."""
    with open_safetensors(file) as tensors:
        tensor, stored = tensors.get_tensor(name), tensors.get_slice(name).get_dtype()
    target = TIES[name]
    if target in state and torch.equal(tensor.to(state[target].dtype), state[target]):
        status, note = "tied", f"equal to {target}"
    else:
        status, note = (
            "unexpected",
            f"the decoder's, tied to {target} here, but its values are others",
        )
    return TensorEntry(name, status, tuple(tensor.shape), stored, note)


@contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """A safetensors file, open for reading. Raises InputError, naming the file, if it is none or is
    damaged."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        reason = (
            "it is a pickle under another name, which is never opened here"
            if is_pickle(file)
            else error
        )
        raise InputError(f"{file} is not a sound safetensors file: {reason}") from error


def is_pickle(file: Path) -> bool:
    """Whether a file begins as PyTorch's pickled checkpoints do: a zip archive, or pickle's own
    protocol byte."""
    try:
        with file.open("rb") as stream:
            return stream.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    except OSError:  # no file, a folder, no permission
        return False


def load_bert(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Bert, LoadReport]:
    """The encoder in a model folder, in eval mode, and the report of its tensors.

    The pooler is there if the file has one. Raises InputError as `load_model`.
    """
    return load_model(
        folder, lambda config, names: Bert(config, pooler="pooler.dense.weight" in names), dtype
    )


def load_model(
    folder: Path, build: Callable[[BertConfig, set[str]], Model], dtype: torch.dtype = torch.float32
) -> tuple[Model, LoadReport]:
    """A model with the weights of a folder, in eval mode, and the report of its tensors.

    build: makes the model, given its config and the names of the parameters that the files can
    fill. Raises InputError, naming file, tensor and shapes, if the config or the weights cannot be
    used, or a tensor of the model is missing, unexpected or of a wrong shape.
    """
    config, files = read_config(folder), weight_files(folder)
    names = {known for file in files for name in tensor_names(file) if (known := model_name(name))}
    # before a loop of a billion steps builds those layers
    if config.num_hidden_layers > len(names):
        raise InputError(
            f"{folder / 'config.json'}: num_hidden_layers is {config.num_hidden_layers}, and the weights "
            f"hold {len(names)} tensors of a BERT in all"
        )
    try:
        with torch.device("meta"):  # shapes without memory: every parameter is about to be replaced
            model = build(config, names)
    except RuntimeError as error:  # sizes whose product overflows
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    known_as = {name.removeprefix("bert."): name for name, _ in model.named_parameters()}
    state, report = load_state(
        {key: model.get_parameter(name) for key, name in known_as.items()}, files, dtype
    )
    report.raise_for_problems()
    model.load_state_dict({known_as[key]: tensor for key, tensor in state.items()}, assign=True)
    return model.eval(), report


def tensor_names(file: Path) -> list[str]:
    """The names of the tensors in a safetensors file."""
    with open_safetensors(file) as tensors:
        return list(tensors.keys())


def save_bert(bert: Bert, folder: Path) -> None:
    """Write an encoder as `save_model` does."""
    save_model(
        "BertModel",
        bert.config,
        {checkpoint_name(name): p for name, p in bert.named_parameters()},
        folder,
    )


def save_model(
    architecture: str, config: BertConfig, tensors: Mapping[str, Tensor], folder: Path, **more: Any
) -> None:
    """Write config.json and model.safetensors as a class of `transformers` does, each beside the
    old one and renamed.

    tensors: by that class's names. more: what else that class wants in config.json.
    Raises InputError if the disk refuses.
    """
    content = {"architectures": [architecture], "model_type": "bert", **asdict(config)}
    save_tensors(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", content | {"position_embedding_type": "absolute"} | more)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file, marked as PyTorch's ("format": "pt", without which transformers
    refuses it)."""
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(file) as beside:
        beside.write_bytes(save(data, metadata={"format": "pt"}))
