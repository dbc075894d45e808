"""The random generators of all processes of a run, in its checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from minibert.files import InputError
from train.world import World


def all_random_states(world: World) -> dict[str, Tensor]:
    """The states of the random generators of all processes, by their names in a checkpoint:
    "random.cpu", of the second process "random.cpu.1", and so on."""
    own = {"cpu": torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state().numpy()
    return {
        random_name(device, rank): torch.tensor(state)
        for rank, states in enumerate(world.gather(own))
        for device, state in states.items()
    }


def random_name(device: str, rank: int) -> str:
    return f"random.{device}.{rank}" if rank else f"random.{device}"


def like_random_states(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is like the generators' states of a checkpoint. One that was written where there is a
    GPU has one more for each process, which counts only where there is one again."""
    found = {name: torch.get_rng_state() for name in tensors if name.startswith("random.cpu.")}
    found["random.cpu"] = torch.get_rng_state()
    for name in tensors:
        if name.startswith("random.cuda"):
            has_gpu = torch.cuda.is_available()
            found[name] = torch.cuda.get_rng_state() if has_gpu else tensors[name]
    return found


def set_random_state(tensors: Mapping[str, Tensor], world: World, file: Path) -> None:
    """Put this process's generators into their state in a checkpoint. If it was written by another
    number of processes, say so; one that it has no state of begins with other random numbers.
    Raises InputError for what is no state."""
    before = sum(name.startswith("random.cpu") for name in tensors)
    if before != world.size:
        print(
            f"{file.parent} was written by {before} processes, and goes on with {world.size}: "
            "dropout draws other random numbers from here on"
        )
    try:
        if (of_cpu := tensors.get(random_name("cpu", world.rank))) is not None:
            torch.set_rng_state(of_cpu)
        of_gpu = tensors.get(random_name("cuda", world.rank))
        if of_gpu is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(of_gpu)
    except RuntimeError as error:
        raise InputError(f"{file}: random is no state of a generator ({error})") from error
