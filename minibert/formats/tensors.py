"""Tensors in safetensors files, which hold data only: nothing here unpickles."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minibert.files import InputError, check_regular, read_object, replacing


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder: model.safetensors, or the shards that
    model.safetensors.index.json lists.

    Raises InputError if there is neither, or if the index names what is not a file of the folder.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return (single,)
    if not index.exists():
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        hint = (
            f": {', '.join(pickles)} is a pickle, which is never opened here. {conversion(folder)}"
            if pickles
            else ""
        )
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
        # os.path.isfile answers False to odd names, for which Path.is_file raises
        if Path(shard).name != shard or not os.path.isfile(folder / shard):
            raise InputError(
                f"{index}: weight_map names {shard!r:.200}, which is no file in {folder}"
            )
    return tuple(folder / shard for shard in shards)


def conversion(folder: Path, copy: str | None = None) -> str:
    """How a user writes pickled weights as safetensors: two lines of Python.

    The class that config.json names loses no head. What it writes stands beside the pickle. copy:
    what the user calls the folder, if it is a copy of this one.
    """
    config, whole = folder / "config.json", folder.parent
    if (whole / "modules.json").exists():  # the folder is that of a module, such as 2_Dense
        library, cls = "sentence_transformers", "SentenceTransformer"
        opened, target = f"{cls}({str(whole)!r})", f"{whole}-safetensors"
    else:
        names = read_object(config).get("architectures") if config.exists() else None
        name = names[0] if isinstance(names, list) and names else None
        is_class = isinstance(name, str) and name.isidentifier()
        library, target = "transformers", str(copy or folder)
        cls = str(name) if is_class else "AutoModel"
        opened = f"{cls}.from_pretrained({target!r})"
    return (
        f"{library} converts it:\n"
        f"  from {library} import {cls}\n"
        f"  {opened}.save_pretrained({target!r})\n"
        f"Then name the folder {target}"
    )


@contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """A safetensors file, open for reading. Raises InputError, naming the file, if it is damaged or
    of another format."""
    check_regular(file)
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
    """Whether a file begins as PyTorch's pickled checkpoints do: as a zip archive, or with pickle's
    own protocol byte."""
    try:
        with file.open("rb") as stream:
            return stream.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    except OSError:  # no file, a folder, no permission
        return False


def tensor_names(file: Path) -> list[str]:
    """The names of the tensors in a safetensors file."""
    with open_safetensors(file) as tensors:
        return list(tensors.keys())


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file by their names, as copies: the file may change later."""
    with open_safetensors(file) as tensors:
        return {name: tensors.get_tensor(name).clone() for name in list(tensors.keys())}


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a float tensor is NaN or infinite: one such weight makes every vector
    NaN."""
    least, most = tensor.aminmax()  # one pass, without a mask as large as the tensor
    return bool(torch.isfinite(least) & torch.isfinite(most))


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file, with the mark `"format": "pt"`, without which `transformers`
    refuses it. Raises InputError if the disk refuses."""
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(file) as beside:
        beside.write_bytes(save(data, metadata={"format": "pt"}))
