"""The forward and backward pass of one step: exact, whatever the sizes of its batches.

`fit` of fit.py takes a step in this order: it sets the learning rates; `forward_backward` computes
losses and gradients, batch by batch; the gradient's norm is cut off at `clip`; the optimizer moves
the parameters, unless a loss or the norm is not finite; the gradients are cleared. Each task's loss
is divided by the number of its targets in all batches of the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minibert.files import InputError
from minibert.precision import uses_bfloat16
from train.batches import Batch
from train.gradient_cache import StatesInPieces
from train.mixing import LossMixer, add_gradients, gradient_report
from train.model import Forward, JointModel
from train.settings import Settings
from train.tasks.base import Task


@dataclass(frozen=True)
class StepLosses:
    """What one step found: each task's summed loss and what to divide it by; and, if asked for, how
    the tasks' gradients agree."""

    sums: Mapping[str, float]
    counts: Mapping[str, float]
    gradients: Mapping[str, float]

    def means(self) -> dict[str, float]:
        """Each task's loss."""
        return {name: self.sums[name] / count for name, count in self.counts.items()}


def forward_backward(
    batches: Sequence[Batch],
    model: JointModel,
    forward: Forward,
    mixer: LossMixer,
    tasks: Sequence[Task],
    settings: Settings,
) -> StepLosses:
    """Leave the gradient of one step's batches in the parameters.

    The targets of all batches are counted first, and every batch's sum is divided by that count.
    So the gradient is that of one large batch, however unevenly sentences and words fall into the
    batches. It is the same whether a batch is computed at once or in pieces.
    """
    counts = {task.name: sum(task.count(batch) for batch in batches) for task in tasks}
    counts = {name: count for name, count in counts.items() if count}
    sums = dict.fromkeys(counts, 0.0)
    gradients: dict[str, Tensor] = {}  # each task's on the encoder, if they are to be logged
    shared = [p for p in model.bert.parameters() if p.requires_grad]

    def compute(batch: Batch) -> Tensor:
        with autocast(batch, settings):
            return forward(batch)  # (*, D)

    for batch in batches:
        here = [task for task in tasks if task.count(batch)]
        if not here:
            continue
        cached = None
        if 0 < settings.mini_batch_size < len(batch.sequences):
            cached = StatesInPieces(compute, batch, settings.mini_batch_size)
        states = cached.states if cached else compute(batch)  # (*, D)
        with autocast(batch, settings):
            losses = {task.name: task.loss(model, states, batch) for task in here}
        means = {name: loss / counts[name] for name, loss in losses.items()}
        if settings.log_gradients:
            add_gradients(gradients, means, shared)
        loss = mixer(means)
        if loss.requires_grad:  # not where all that this batch's tasks use is frozen
            loss.backward()
        if cached:
            cached.backward()
        for name, task_loss in losses.items():
            sums[name] += task_loss.item()
    mixer.add_penalty_gradient(counts)
    return StepLosses(sums, counts, gradient_report(gradients) if gradients else {})


def autocast(batch: Batch, settings: Settings) -> torch.autocast:
    """The precision in which a batch is computed."""
    device = batch.input_ids.device
    in_bfloat16 = uses_bfloat16(settings.precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16)


def not_finite(step: int, times: int, batches: Sequence[Batch]) -> InputError:
    """What to tell the user of the last of several such steps in a row."""
    where = "; ".join(item.example.where for batch in batches for item in batch.items[:3])
    return InputError(
        f"{times} steps in a row had a loss or gradient that is not finite, the last at step "
        f"{step}, a batch that begins with {where}. Lower lr, or look at these examples"
    )
