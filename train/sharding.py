"""Fully sharded training: each process holds a part of the layers, and no process holds all.

Of N processes, each keeps an N-th of every weight of the layers, of its gradient, and of what the
optimizer keeps beside it. PyTorch's FSDP2 gathers a layer's weights just before it computes,
forward or backward, and drops them afterwards. It adds up a layer's gradients as soon as they are
there, and leaves each process its part (Zhao et al. 2023, arXiv:2304.11277). With AdamW, weights,
gradients and moments take four times the memory of the weights. So this trains models whose weights
fit a device, and all four do not: before the end, the trained weights are whole again everywhere.

Only the layers are sharded: 302 of BERT-large's 335 million parameters. Embeddings, pooler and
heads stay whole in each process, because losses use them outside of `forward`: masked words are
found by a product with the word embeddings.

Gathering needs all processes at once. So they all compute every batch, forward and backward, also
one in which a process has no targets.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from minibert.files import InputError
from minibert.model import Bert
from train.settings import Settings
from train.world import World


def check_sharding(settings: Settings, world: World) -> None:
    """Raise InputError if the layers cannot be sharded with these settings, processes or this
    PyTorch."""
    if world.size == 1:
        raise InputError(
            "fsdp = true shards the layers over several processes, and this is the only one: "
            "start several by torchrun --nproc-per-node N -m train.run, or leave fsdp out"
        )
    for name in ("mini_batch_size", "log_gradients"):
        if getattr(settings, name):
            raise InputError(
                f"{name} = {str(getattr(settings, name)).lower()}: with fsdp = true, each batch "
                f"takes one forward and one backward pass in all processes. Leave out {name}, or "
                "fsdp"
            )
    import torch.distributed.fsdp as fsdp

    if not hasattr(getattr(fsdp, "FSDPModule", None), "set_force_sum_reduction_for_comms"):
        raise InputError(f"fsdp = true needs PyTorch 2.9 or later, and this is {torch.__version__}")


@contextmanager
def sharded_layers(bert: Bert, settings: Settings, world: World) -> Iterator[None]:
    """While this is open, each process holds its part of the layers; then all have them whole,
    trained. Without `fsdp` they are whole all the time.

    After an error they stay empty: to gather them would wait for processes that may have ended.
    """
    if not settings.fsdp:
        yield
        return
    mesh = distributed.init_device_mesh(bert.device.type, (world.size,))
    # FSDP2 changes a module for good, so it gets copies.
    layers = list(bert.layers)
    for i, layer in enumerate(layers):
        bert.layers[i] = _sharded(copy.deepcopy(layer), mesh)
        for parameter in layer.parameters():
            parameter.data = parameter.new_empty(0)
    yield
    for i, layer in enumerate(layers):
        trained = bert.layers[i].parameters()
        for parameter, part in zip(layer.parameters(), trained, strict=True):
            parameter.data = whole(part)
            parameter.requires_grad_(part.requires_grad)
        bert.layers[i] = layer


def _sharded(layer: nn.Module, mesh: Any) -> nn.Module:
    """The layer itself, of which this process keeps only its part."""
    import torch.distributed.fsdp as fsdp

    sharded = fsdp.fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # Sums, as of `World.add_up`, and not means. Gloo cannot divide while it adds.
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)
    return layer


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is PyTorch's DTensor, whose import takes half a second."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def whole(tensor: Any) -> Tensor:
    """A tensor with the parts that other processes hold; all processes must call this."""
    result: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return result


def gathered(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Whole tensors in the first process, those gathered on the CPU; nothing in the others."""
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if world.is_first:
            found[name] = value.cpu() if is_sharded(tensor) else value
    return found


@torch.no_grad()
def put(tensor: Any, value: Tensor) -> None:
    """Copy a whole value into a tensor of which this process may hold only a part."""
    if is_sharded(tensor):
        rank, size = tensor.device_mesh.get_local_rank(), tensor.device_mesh.size()
        parts = value.chunk(size)  # by rows; where there are few, the last processes have none
        tensor, value = tensor.to_local(), parts[rank] if rank < len(parts) else value[:0]
    tensor.copy_(value)


def clip_gradients(parameters: Sequence[nn.Parameter], most: float, world: World) -> float:
    """Scale the gradients down until their norm is at most `most`, as `clip_grad_norm_` does, whole
    ones and sharded ones together. Returns the norm before that."""
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    if not any(map(is_sharded, gradients)):
        return float(nn.utils.clip_grad_norm_(parameters, most))
    replicated = [gradient for gradient in gradients if not is_sharded(gradient)]
    parts = [gradient.to_local() for gradient in gradients if is_sharded(gradient)]
    (of_parts,) = world.sum([float(nn.utils.get_total_norm(parts)) ** 2])
    norm = math.sqrt(float(nn.utils.get_total_norm(replicated)) ** 2 + of_parts)
    factor = min(1.0, most / (norm + 1e-6))
    for gradient in (*replicated, *parts):
        gradient.mul_(factor)
    return norm
