"""The forward and backward pass of one step: exact, whatever the sizes of its batches.

`fit` of fit.py takes a step in this order: it sets the learning rates; `forward_backward` computes
losses and gradients, batch by batch; the gradient's norm is cut off at `clip`; the optimizer moves
the parameters, unless a loss or the norm is not finite; the gradients are cleared. Each task's loss
is divided by the number of its targets in all batches of the step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minibert.files import InputError
from minibert.precision import uses_bfloat16
from train.batches import Batch
from train.gradient_cache import StatesInPieces, generator_states, set_generators
from train.memory import naming_batches
from train.mixing import LossMixer, add_gradients, gradient_report
from train.model import Forward, JointModel
from train.settings import Settings
from train.sharding import is_sharded
from train.tasks.base import Task
from train.world import ALONE, World


@dataclass(frozen=True)
class StepLosses:
    """What one step found, in all processes together: each task's summed loss and what to divide it
    by; how many tokens there were; and, if asked for, how the tasks' gradients agree."""

    sums: Mapping[str, float]
    counts: Mapping[str, float]
    tokens: int
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
    world: World = ALONE,
) -> StepLosses:
    """Leave the gradient of one step's batches in the parameters, which have none before.

    The targets of all batches are counted first, and every batch's sum is divided by that count.
    So the gradient is that of one large batch, however unevenly sentences and words fall into the
    batches. It is the same whether a batch is computed at once or in pieces, by one process or by
    several, each of which has a share of every batch.

    If a GPU's memory runs out, the step begins again, in pieces of half as many sequences, and says
    so. Raises InputError if that does not help, if others have begun the step with this process, or
    if the CPU's memory runs out.
    """
    device = batches[0].input_ids.device
    generators = generator_states(device)
    size = settings.mini_batch_size or max(len(batch.sequences) for batch in batches)
    advice = "lower batch_size or max_length, or give a smaller mini_batch_size"
    with naming_batches(batches, advice):
        while True:
            try:
                return _forward_backward(
                    batches, model, forward, mixer, tasks, settings, world, size
                )
            except torch.OutOfMemoryError:
                # the gradients are logged of each batch at once
                if size == 1 or settings.log_gradients or world.size > 1:
                    raise
            # Not in the except block: there, the error keeps in memory what was computed.
            for parameter in (*model.parameters(), *mixer.parameters()):
                parameter.grad = None
            set_generators(generators, device)
            size = (size + 1) // 2
            print(f"out of memory: this step is computed again, in pieces of {size} sequences")


def _forward_backward(
    batches: Sequence[Batch],
    model: JointModel,
    forward: Forward,
    mixer: LossMixer,
    tasks: Sequence[Task],
    settings: Settings,
    world: World,
    size: int,
) -> StepLosses:
    """`forward_backward` in pieces of `size` sequences, where a batch has more."""
    # A count over the items of all shares is the same in every process: one of them tells it.
    told = [task for task in tasks if world.is_first or not task.compares_items]
    own = {task.name: sum(task.count(batch) for batch in batches) for task in told}
    all_counts = world.sum([own.get(task.name, 0.0) for task in tasks])
    counts = {task.name: count for task, count in zip(tasks, all_counts, strict=True) if count}
    sums = dict.fromkeys(counts, 0.0)
    gradients: dict[str, Tensor] = {}  # each task's on the encoder, if they are to be logged
    shared = [p for p in model.bert.parameters() if p.requires_grad]

    def compute(batch: Batch) -> Tensor:
        with autocast(batch, settings):
            return forward(batch)  # (*, D)

    for batch in batches:
        here = [task for task in tasks if task.count(batch)]
        if not here and not (settings.fsdp and counts):
            continue
        cached = None
        if size < len(batch.sequences):
            cached = StatesInPieces(compute, batch, size)
        states = cached.states if cached else compute(batch)  # (*, D)
        with autocast(batch, settings):
            losses = {task.name: task.loss(model, states, batch) for task in here}
        means = {name: loss / counts[name] for name, loss in losses.items()}
        if settings.log_gradients:
            add_gradients(gradients, means, shared)
        # Sharded layers need this process for the other shares' targets.
        loss = mixer(means) if means else 0 * states.sum()
        if loss.requires_grad:  # not where all that this batch's tasks use is frozen
            loss.backward()
        if cached:
            cached.backward()
        for name, task_loss in losses.items():
            sums[name] += task_loss.item()
    if world.is_first:
        mixer.add_penalty_gradient(counts)
    learning = [p for p in (*model.parameters(), *mixer.parameters()) if p.requires_grad]
    world.add_up([p for p in learning if not is_sharded(p)])
    if settings.log_gradients and shared and world.size > 1:
        for name in counts:
            nothing = torch.cat([torch.zeros_like(p).flatten() for p in shared])
            gradients[name] = world.total(gradients.get(name, nothing))
    *all_sums, tokens = world.sum([*sums.values(), sum(b.input_ids.numel() for b in batches)])
    return StepLosses(
        dict(zip(sums, all_sums, strict=True)), counts, int(tokens), gradient_report(gradients)
    )


def autocast(batch: Batch, settings: Settings) -> torch.autocast:
    """The precision in which a batch is computed."""
    device = batch.input_ids.device
    in_bfloat16 = uses_bfloat16(settings.precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16)


def skipped(step: int, losses: StepLosses, batches: Sequence[Batch]) -> str:
    """What to tell the user of a step whose loss or gradient is not finite."""
    names = [name for name, loss in losses.sums.items() if not math.isfinite(loss)]
    what = f"the loss of {', '.join(names)}" if names else "the gradient"
    return (
        f"step {step} is skipped: {what} is not finite, in a step that begins with "
        f"{batches[0].items[0].example.where}"
    )


def not_finite(step: int, times: int, batches: Sequence[Batch]) -> InputError:
    """What to tell the user of the last of several such steps in a row."""
    where = "; ".join(item.example.where for batch in batches for item in batch.items[:3])
    return InputError(
        f"{times} steps in a row had a loss or gradient that is not finite, the last at step "
        f"{step}, a batch that begins with {where}. Lower lr, or look at these examples"
    )
