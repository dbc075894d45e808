"""Gradient caching (Gao et al. 2021, section 3.2, arXiv:2101.06983): a large batch in the memory of
a small one.

A loss that compares the texts of a batch needs all of them at once. But it needs only their last
hidden states, and nothing that the encoder computed on the way there. So the encoder computes the
batch in pieces, and keeps only their last hidden states. Then come the losses, and their gradient
at these states. Last, each piece is computed once more, and its part of that gradient goes backward
through it. Dropout must be the same both times: else the gradient would be that of other states
than those that the losses saw.

Shapes: N packed tokens of the batch, D hidden. `*` stands for the tokens of a batch or a piece.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from train.batches import Batch
from train.model import Forward


class StatesInPieces:
    """The last hidden state of a batch, computed in pieces of `size` sequences.

    states: (N, D), where a backward pass stops. `backward` goes on from there.
    """

    def __init__(self, forward: Forward, batch: Batch, size: int) -> None:
        self.forward, self.pieces = forward, batch.pieces(size)
        self.device = batch.input_ids.device
        self.lengths = [piece.input_ids.numel() for piece in self.pieces]  # in tokens
        self.generators: list[Sequence[Tensor]] = []  # their states before each piece
        self.states = torch.empty(0)
        learns = False
        for i, piece in enumerate(self.pieces):
            self.generators.append(generator_states(self.device))
            # With autograd, though its graph is dropped: without it some kernels are others, which
            # round differently, or draw other random numbers for dropout.
            states = forward(piece)  # (*, D)
            learns = states.requires_grad
            states = states.detach()  # (*, D)
            # One tensor for all pieces, made beforehand: many small ones that stay would break up
            # the memory that the next pieces need.
            if i == 0:
                self.states = states.new_empty(sum(self.lengths), states.size(1))  # (N, D)
            self.states.split(self.lengths)[i].copy_(states)
        self.states.requires_grad_(learns)

    def backward(self) -> None:
        """Add the gradient of all that learns in `forward`, from that of `states`. The random
        generators are then as they were."""
        gradient = self.states.grad
        if gradient is None:  # nothing below the heads learns
            return
        on_gpu = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(on_gpu):
            for piece, generators, part in zip(
                self.pieces, self.generators, gradient.split(self.lengths), strict=True
            ):
                set_generators(generators, self.device)
                self.forward(piece).backward(part)


def generator_states(device: torch.device) -> Sequence[Tensor]:
    """Those of the random generators that a computation on this device may draw from."""
    of_cpu = torch.get_rng_state()
    return (of_cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (of_cpu,)


def set_generators(states: Sequence[Tensor], device: torch.device) -> None:
    """Undo what was drawn since `generator_states` returned these."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
