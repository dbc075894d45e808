"""How the losses of several tasks become one, and whether the tasks pull the encoder the same
way."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from minibert.files import InputError
from train.parse import parse_number, parse_pairs
from train.settings import Settings
from train.tasks.base import Task


class LossMixer(nn.Module):
    """A factor for each task's loss.

    "sum": 1 each. "fixed": as `loss_weights` says; alpha * A + (1 - alpha) * B is "A=0.7, B=0.3".
    "uncertainty": learnt, with s the logarithm of the task's noise variance (Kendall, Gal and
    Cipolla 2018, section 3, arXiv:1705.07115).

    A squared error counts as exp(-s) * loss / 2 + s / 2, the negative log-likelihood of a normal
    distribution of variance exp(s). Any other loss counts as exp(-s) * loss + s / 2. For a
    cross-entropy that is the paper's approximation (equation 10) and departs from a likelihood:
    exp(s) is then a temperature of the logits, and no variance of anything in the data. Each s
    starts where its factor is 1; the paper does not say where.
    """

    def __init__(self, tasks: Sequence[Task], settings: Settings) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        given = parse_pairs(settings.loss_weights, "loss_weights")
        if (settings.loss == "fixed") != bool(given):
            raise InputError("loss = fixed needs loss_weights, and loss_weights needs loss = fixed")
        if given and set(given) != set(names):
            raise InputError(
                f"loss_weights = {settings.loss_weights!r}: give each task one: {', '.join(names)}"
            )
        self.fixed = dict.fromkeys(names, 1.0) | {
            name: parse_number(weight, "loss_weights") for name, weight in given.items()
        }
        # what the negative log-likelihood has of each loss
        self.shares = {task.name: 0.5 if task.is_squared_error else 1.0 for task in tasks}
        # a parameter's name cannot have a dot, as in "reviews.label"
        self.parts = {name: name.replace(".", ":") for name in names}
        self.log_variances = nn.ParameterDict()
        if settings.loss == "uncertainty":
            for name, share in self.shares.items():
                self.log_variances[self.parts[name]] = nn.Parameter(torch.tensor(math.log(share)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The sum of some tasks' losses, each times its factor: () each -> ()."""
        factors: Mapping[str, Tensor | float] = self.fixed
        if self.log_variances:
            factors = {
                name: (-self.log_variances[self.parts[name]]).exp() * share
                for name, share in self.shares.items()
            }
        return torch.stack([loss * factors[name] for name, loss in losses.items()]).sum()

    def add_penalty_gradient(self, names: Iterable[str]) -> None:
        """Add the gradient of s / 2, which keeps the variances from growing, for each task of a
        step, once a step."""
        for part in (self.parts[name] for name in names):
            if part in self.log_variances:
                (self.log_variances[part] / 2).backward()


def add_gradients(
    sums: dict[str, Tensor], losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
) -> None:
    """Add each task's gradient on the shared parameters, as one long vector, to its sum over a
    step's batches.

    Costs a backward pass for each task, and keeps the graph for the pass that trains.
    """
    for name, loss in losses.items():
        if parameters and loss.requires_grad:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(parameters, gradients, strict=True)
            flat = torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]
            )
            sums[name] = sums[name] + flat if name in sums else flat


def gradient_report(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """The norm of each task's gradient, and the cosine of each two: below 0, the tasks pull
    the encoder apart."""
    report = {
        f"gradient_norm.{name}": float(gradient.norm()) for name, gradient in gradients.items()
    }
    for (a, first), (b, second) in combinations(gradients.items(), 2):
        scale = first.norm() * second.norm()
        report[f"gradient_cosine.{a}.{b}"] = float(first @ second / scale) if scale > 0 else 0.0
    return report
