"""The processes that train one model together, each on its share of every batch.

`torchrun --nproc-per-node N -m train.run ...` starts N of them. Then each step's gradient is that
of one process, but for rounding: a task's loss is a sum over targets, divided by the number of
targets in all shares, so the shares' gradients add up. `add_up` adds them, with one `all_reduce`
after the step's last backward pass. Accumulated batches need no communication before it.

PyTorch's DistributedDataParallel would have another shape. It wraps one `forward`, and here heads
and losses are outside of it, several tasks share it, a prefix cache begins in its middle, and a
large batch passes it in pieces. It takes the mean over processes, and here is a sum. And it wants
the same parameters to have a gradient in every process, where a share may lack a task's targets.
It communicates while the backward pass still computes, and this does not.

Without torchrun there is one process, and everything here leaves what it is given as it is.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, distributed, nn

from minibert.files import InputError
from train.batches import Item
from train.wire import pack, unpack


@dataclass(frozen=True)
class World:
    """This process among those that train together. Alone, it is the first of one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this host: the number of its GPU

    @property
    def is_first(self) -> bool:
        """Whether it is the process that writes and shows."""
        return self.rank == 0

    # Sharing out

    def shares(self, items: Sequence[Item], keeps_owners: bool = False) -> list[list[Item]]:
        """The items of a batch that each process computes.

        The shares have about equally many tokens: from the longest item to the shortest, each goes
        to the process that has the fewest tokens so far. keeps_owners: an item goes to the same
        process in every epoch, so that what the process has kept of it can be used again.
        """
        if self.size == 1:
            return [list(items)]
        owners = [item.number % self.size for item in items]
        if not keeps_owners:
            tokens = [0] * self.size
            for i in sorted(range(len(items)), key=lambda i: -items[i].num_tokens):
                owners[i] = tokens.index(min(tokens))
                tokens[owners[i]] += items[i].num_tokens
        return [
            [item for item, owner in zip(items, owners, strict=True) if owner == rank]
            for rank in range(self.size)
        ]

    def own(self, shares: Sequence[Sequence[Item]]) -> Sequence[Item]:
        """This process's share. If it is empty, the batch's shortest item stands in without its
        labels: it takes part in everything, and has nothing to learn from."""
        if own := shares[self.rank]:
            return own
        shortest = min((item for share in shares for item in share), key=lambda i: i.num_tokens)
        return [replace(shortest, example=replace(shortest.example, labels={}))]

    # Adding up

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number, summed over the processes."""
        if self.size == 1:
            return list(numbers)
        return self.total(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def any(self, is_so: bool) -> bool:
        """Whether it is so in some process."""
        return is_so if self.size == 1 else self.sum([is_so])[0] > 0

    def total(self, tensor: Tensor) -> Tensor:
        """A tensor, which becomes its sum over the processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give each parameter the sum of its gradients in all processes: none if none has one."""
        if self.size == 1 or not parameters:
            return
        has = parameters[0].new_tensor([p.grad is not None for p in parameters])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.total(torch.cat([has, *(gradient.flatten() for gradient in gradients)]))
        counts, *sums = flat.split([len(has), *(p.numel() for p in parameters)])
        for parameter, count, total in zip(parameters, counts.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter) if count else None

    # Telling

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank; of any kind that `pack` takes."""
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(pack(value)), dtype=torch.uint8)
        sizes = self.sum([len(own) if rank == self.rank else 0 for rank in range(self.size)])
        return [unpack(row.numpy().tobytes()) for row in all_rows(own, list(map(int, sizes)))]

    def first(self, value: Callable[[], Any]) -> Any:
        """What the first process computes, in all of them; no other computes it."""
        return self.gather(value() if self.is_first else None)[0]

    def begin(self, seed: int, parameters: Sequence[Tensor]) -> None:
        """Give the parameters the first process's bits, and dropout of each process other random
        numbers."""
        if self.size > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.detach(), src=0)
        if self.rank:
            torch.manual_seed(seed + 1_000_003 * self.rank)

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raise InputError, naming what differs and where, unless all processes have these
        facts."""
        (first_host, first), *others = self.gather((socket.gethostname(), facts))
        for rank, (host, other) in enumerate(others, start=1):
            for name in {**first, **other}:
                if (found := other.get(name)) != (wanted := first.get(name)):
                    raise InputError(
                        f"process {rank} on {host} has {name} {found!r:.200}, and process 0 on "
                        f"{first_host} has {wanted!r:.200}: all processes must begin with the same"
                    )


ALONE = World()


def all_rows(own: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The rows of all processes, by rank: (n, ...) -> (m, ...) each. sizes: how many each has.

    Gradients flow into one's own rows alone. Their sum over the processes is the whole gradient if
    each process computes the same loss of all rows.
    """
    most = max(sizes)
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own.detach()
    found = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(found, padded)
    rows = [tensor[:size] for tensor, size in zip(found, sizes, strict=True)]
    rows[distributed.get_rank()] = own
    return rows


def share_of(loss: Tensor, size: int) -> Tensor:
    """A loss that each of `size` processes has computed as a whole, as this one's share of it: its
    value is divided, so that the values add up; and its gradient is whole, since each process has
    only its own rows' part."""
    return loss - loss.detach() * (1 - 1 / size)
