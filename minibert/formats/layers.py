"""sentence-transformers' folders of layers after the pooling, such as 2_Dense, read and written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minibert.after import AfterPooling, Dense
from minibert.files import InputError, read_object, write_json
from minibert.formats.tensors import is_finite, read_tensors, save_tensors, weight_files

LAYERS = ("Dense", "LayerNorm")  # the kinds that are read
ACTIVATIONS = (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
# What a Dense may say only in this way: all else is another computation.
ONLY = {
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
    "use_residual": False,
}


def read_layers(folders: Sequence[tuple[str, Path]]) -> AfterPooling:
    """The layers of some folders, each of a kind of LAYERS, in float32.

    Raises InputError, naming file and key, for what is not implemented, and for weights that are
    not those that the config describes.
    """
    return AfterPooling(*(_read(kind, folder) for kind, folder in folders)).eval()


def write_layers(after: AfterPooling, folder: Path) -> list[str]:
    """Write each layer into a folder of its own below `folder`, and return their names. Raises
    InputError if the disk refuses, and for a LayerNorm with an eps of its own."""
    names = []
    for number, layer in enumerate(after, start=2):  # 0 is the Transformer, 1 the Pooling
        config: dict[str, Any]
        if isinstance(layer, Dense):
            linear, activation = layer.linear, type(layer.activation)
            config = {
                "in_features": linear.in_features,
                "out_features": linear.out_features,
                "bias": linear.bias is not None,
                "activation_function": _full_name(activation),
            }
            kind, prefix = "Dense", ""
        else:
            assert isinstance(layer, nn.LayerNorm)
            if layer.eps != nn.LayerNorm(1).eps:
                raise InputError(
                    f"layer {number - 1} after the pooling (LayerNorm) has eps {layer.eps}, which "
                    "sentence-transformers' format cannot say: it has PyTorch's own"
                )
            config = {"dimension": layer.normalized_shape[0]}
            kind, prefix = "LayerNorm", "norm."
        names.append(f"{number}_{kind}")
        tensors = {prefix + name: tensor for name, tensor in layer.named_parameters()}
        save_tensors(tensors, folder / names[-1] / "model.safetensors")
        write_json(folder / names[-1] / "config.json", config)
    return names


def _read(kind: str, folder: Path) -> nn.Module:
    """The layer in a folder."""
    file = folder / "config.json"
    content = read_object(file)
    with torch.device("meta"):  # shapes without memory: every parameter will be replaced
        layer: nn.Module
        if kind == "Dense":
            layer, prefix = _dense(content, file), ""
        else:
            layer, prefix = nn.LayerNorm(_size(content, "dimension", file)), "norm."
    wanted = {prefix + name: list(p.shape) for name, p in layer.named_parameters()}
    weights = {
        name: tensor
        for shard in weight_files(folder)
        for name, tensor in read_tensors(shard).items()
    }
    found = {name: list(tensor.shape) for name, tensor in weights.items()}
    if found != wanted or not all(tensor.is_floating_point() for tensor in weights.values()):
        raise InputError(
            f"{folder}: the weights are {found}, and config.json describes floats of {wanted}"
        )
    state = {name.removeprefix(prefix): tensor.float() for name, tensor in weights.items()}
    if odd := [name for name, tensor in state.items() if not is_finite(tensor)]:
        raise InputError(f"{folder}: {', '.join(odd)} of the weights holds NaN or infinite numbers")
    layer.load_state_dict(state, assign=True)
    return layer


def _dense(content: dict[str, Any], file: Path) -> Dense:
    """The Dense that a config.json describes, without its weights."""
    for key, value in ONLY.items():
        if content.get(key, value) != value:
            raise InputError(f"{file}: {key} is {content[key]!r:.200}; read here: {value!r}")
    named = {_full_name(activation): activation for activation in ACTIVATIONS}
    wanted = content.get("activation_function", _full_name(nn.Tanh))
    if not isinstance(wanted, str) or wanted not in named:
        raise InputError(
            f"{file}: activation_function is {wanted!r:.200}; read here: {', '.join(named)}"
        )
    bias = content.get("bias", True)
    if type(bias) is not bool:
        raise InputError(f"{file}: bias must be true or false, not {bias!r:.200}")
    inputs, outputs = (_size(content, key, file) for key in ("in_features", "out_features"))
    return Dense(inputs, outputs, bias, named[wanted]())


def _size(content: dict[str, Any], key: str, file: Path) -> int:
    """A number of dimensions in a config.json."""
    size = content.get(key)
    if type(size) is not int or not 1 <= size < 2**20:
        raise InputError(f"{file}: {key} must be a number of dimensions, not {size!r:.200}")
    return size


def _full_name(activation: type[nn.Module]) -> str:
    """A class with its module, as sentence-transformers writes it."""
    return f"{activation.__module__}.{activation.__qualname__}"
