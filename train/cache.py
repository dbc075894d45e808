"""The frozen prefix: what leaves frozen lowest layers never changes, so it is computed once.

Training from the cache gives the losses that training without it gives: to the last bit, if a
sentence's rows have the same bits whatever else is in its batch. With MiniLM's sizes they do where
linear layers are convolutions (minibert/fast/linear.py), in batches of 128 tokens or more.
Elsewhere the matrix kernel may depend on the number of tokens, and losses agree but for rounding.
"""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minibert.files import InputError
from train.batches import Batch, Item
from train.model import JointModel


class PrefixCache:
    """The output of the embeddings and the lowest layers for every sentence, stored when a sentence
    first comes by.

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
        dtype = model.bert.dtype
        shape = (size, model.bert.config.hidden_size)
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes <= memory:
            self.states = torch.empty(shape, dtype=dtype)
        else:
            self.states = torch.from_numpy(nameless_file(folder, num_bytes)).view(dtype).view(shape)

    def forward(self, batch: Batch) -> Tensor:
        """The last hidden state of a batch, (*, D), as `JointModel.forward` gives it."""
        x = self._prefix_states(batch)  # (*, D)
        return self.model.bert.run(x, batch.layout, self.prefix - 1)  # (*, D)

    def _prefix_states(self, batch: Batch) -> Tensor:
        """What leaves the frozen layers, read from the cache or computed and stored: (*, D)."""
        keys = [(batch.items[i].number, part) for i, part in batch.sequences]
        lengths = batch.layout.lengths
        if all(key in self.filled for key in keys):
            slices = [
                self.states[self.offsets[k] : self.offsets[k] + n]
                for k, n in zip(keys, lengths, strict=True)
            ]
            return torch.cat(slices).to(batch.input_ids.device)  # (*, D)
        bert = self.model.bert
        with torch.no_grad():
            x = bert.embeddings(batch.input_ids, batch.token_type_ids, batch.layout)  # (*, D)
            x = bert.run(x, batch.layout, 0, self.prefix - 1)  # (*, D)
        for key, states in zip(keys, x.split(lengths), strict=True):
            if (offset := self.offsets.get(key)) is not None:  # it may be another process's
                self.states[offset : offset + len(states)] = states
                self.filled.add(key)
        return x


def nameless_file(folder: Path, num_bytes: int) -> np.memmap:
    """A new file's bytes, mapped; the disk space is taken at once, since a full disk later would
    kill the program."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Where files without a name are unknown, it has this one for a moment.
        with tempfile.TemporaryFile(dir=folder, prefix=".prefix-", suffix=".tmp") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=num_bytes)
    except OSError as error:
        raise InputError(
            f"no room in {folder} for the frozen layers' output, {num_bytes / 2**20:,.0f} MiB "
            f"({error.strerror}): make room, allow it in memory (cache_mib), or do without "
            "(--no-cache)"
        ) from error
