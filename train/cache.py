"""The frozen prefix: what leaves the lowest layers never changes once they are frozen, so it is
computed once.

With MiniLM's sizes a sentence's rows are the same bit for bit whatever else is in its batch, as
long as a batch has a dozen tokens or more, or 128 where minibert/linear.py convolves (below that,
and for much smaller models on several threads, the matrix kernel is another one, and the last bits
may differ); so training from the cache gives the losses that training without it gives.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minibert.files import InputError
from train.data import Batch, Item
from train.settings import Settings
from train.tasks import JointModel


class PrefixCache:
    """The output of the embeddings and the lowest layers for every sentence, filled as sentences
    come by.

    prefix: 1 for the embeddings, 1 + k for the lowest k layers too. memory: bytes; a larger cache
    is a file in `folder`, which the system keeps in memory as far as it can. The file has no name,
    so nothing is left of it however the run ends. Raises InputError if the disk has no room for it.
    """

    def __init__(
        self, model: JointModel, items: Sequence[Item], prefix: int, memory: int, folder: Path
    ) -> None:
        self.model = model
        self.prefix = prefix
        self.offsets: dict[tuple[int, int], int] = {}
        size = 0
        for item in items:
            for part, tokens in enumerate(item.parts):
                self.offsets[item.number, part] = size
                size += len(tokens.ids)
        self.filled: set[tuple[int, int]] = set()
        weight = model.bert.embeddings.word.weight
        shape = (size, weight.size(1))
        num_bytes = size * weight.size(1) * weight.element_size()
        if num_bytes <= memory:
            self.states = torch.empty(shape, dtype=weight.dtype)
        else:
            self.states = (
                torch.from_numpy(nameless_file(folder, num_bytes)).view(weight.dtype).view(shape)
            )

    @classmethod
    def renewed(
        cls,
        old: "PrefixCache | None",
        model: JointModel,
        prefix: int,
        sources: Sequence[Sequence[Item]],
        settings: Settings,
        run: Path,
    ) -> "PrefixCache | None":
        """The cache for an epoch: the old one while as much is frozen as before, else a new one;
        None for no cache."""
        wanted = prefix if settings.cache else 0
        if old is not None and old.prefix == wanted:
            return old
        items = [item for source in sources for item in source]
        return cls(model, items, wanted, settings.cache_mib * 2**20, run) if wanted else None

    def hidden(self, batch: Batch) -> Tensor:
        """The last hidden state of a batch, from the cache up: (*, D)."""
        x = self._below(batch)
        for layer in self.model.bert.layers[self.prefix - 1 :]:
            x = layer(x, batch.layout)  # (*, D)
        return x

    def _below(self, batch: Batch) -> Tensor:
        keys = [(batch.items[i].number, part) for i, part in batch.sentences]
        lengths = [len(batch.items[i].parts[part].ids) for i, part in batch.sentences]
        if all(key in self.filled for key in keys):
            slices = [
                self.states[self.offsets[k] : self.offsets[k] + n]
                for k, n in zip(keys, lengths, strict=True)
            ]
            return torch.cat(slices).to(batch.input_ids.device)
        with torch.no_grad():
            x = self.model.bert.embeddings(batch.input_ids, None, batch.layout)  # (*) -> (*, D)
            for layer in self.model.bert.layers[: self.prefix - 1]:
                x = layer(x, batch.layout)  # (*, D)
        for key, states in zip(keys, x.split(lengths), strict=True):
            offset = self.offsets[key]
            self.states[offset : offset + len(states)] = states
            self.filled.add(key)
        return x


def nameless_file(folder: Path, num_bytes: int) -> np.memmap:
    """A new file's bytes, mapped; the disk space is taken at once, since a full disk later would
    kill the program."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=num_bytes)
    except OSError as error:
        raise InputError(
            f"no room in {folder} for the frozen layers' output, {num_bytes / 2**20:,.0f} MiB ({error.strerror}): "
            "make room, allow it in memory (cache_mib), or do without (--no-cache)"
        ) from error
