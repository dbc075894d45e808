"""python -m tools.finetune --seeds 3 --recipe snips --data snips: fine-tuning beside a plain loop
with transformers' BertModel, by seed.

For classes of texts and pairs, several labels, scores, tags and answers, alone or jointly, of one
data set or several. The other side is the loop that people write (tools/joint.py): BertModel padded
to the longest of each batch, a linear head for each task, torch.optim.AdamW, transformers' linear
schedule. It has the same token ids, targets, settings, order of batches, choice of the best epoch
and metrics as ours. All options of train.run count; those that the loop does not have are refused.
A finished run stays in the output folder and is not repeated, so an interrupted comparison goes on.
"""

import argparse
import copy
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from minibert.files import InputError, read_object, write_json
from minibert.formats.hub import find_model
from minibert.program import run_program
from tools.joint import TransformersJoint, head_for, padded
from train.batches import Item
from train.command_line import command_line
from train.evaluation import measure, monitored_value, tune
from train.parse import parse_pairs
from train.progress import Metrics
from train.report import table
from train.run import train
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import assemble
from train.tasks.base import Task
from train.tasks.records import FRAME, LOSS, Prediction

ENGINES = ("minibert", "transformers")
ROWS = 32  # items of a batch that is only predicted
NOT_THERE = (  # settings that the plain loop does not have
    "accumulate",
    "precision",
    "class_weights",
    "eval_steps",
    "freeze",
    "group_lr",
    "label_smoothing",
    "layer_decay",
    "max_steps",
    "mini_batch_size",
    "patience",
    "schedule",
    "unfreeze",
)


def check_comparable(settings: Settings, tasks: Sequence[Task]) -> None:
    """Raise InputError for what the plain loop cannot do."""
    defaults = {field.name: field.default for field in fields(Settings)}
    own = [name for name in NOT_THERE if getattr(settings, name) != defaults[name]]
    own += ["loss"] if settings.loss == "uncertainty" else []
    own += ["monitor"] if settings.monitor.rpartition(".")[2] == LOSS.name else []
    if own:
        value = getattr(settings, own[0])
        raise InputError(
            f"the plain loop has no {own[0]} = {value!r}: leave it out, or give --engines minibert"
        )
    for task in tasks:
        head_for(task, hidden_size=1)


def train_transformers(settings: Settings, run: Path) -> None:
    """One run of the other side; its dev and test metrics go to RUN/metrics.json."""
    from transformers import get_linear_schedule_with_warmup

    parts = assemble(settings, announce=lambda _: None)
    tasks, sources, dev = parts.tasks, parts.sources, parts.dev
    torch.manual_seed(settings.seed)
    given = parse_pairs(settings.loss_weights, "loss_weights")
    weights = {name: float(weight) for name, weight in given.items()}
    model = TransformersJoint(find_model(settings.model).path, tasks, settings.dropout, weights)
    optimizer = torch.optim.AdamW(
        model.groups(settings.lr, settings.head_lr, settings.weight_decay), fused=True
    )
    sizes = [len(items) for items in sources]
    lengths = [[item.num_tokens for item in items] for items in sources]
    total = settings.epochs * len(plan_steps(sizes, settings, 1))
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * total), total)
    best, best_value = model, float("-inf")
    bar = tqdm(total=total, desc=run.name, unit="step", disable=None)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        for (batch,) in plan_steps(sizes, settings, epoch, lengths):
            loss = model.loss(padded([sources[source][i] for source, i in batch]))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.update()
        value = monitored_value(evaluate(model, tasks, dev, True), tasks, settings.monitor)
        if value > best_value:
            best, best_value = copy.deepcopy(model), value
    results = {"dev": evaluate(best, tasks, dev, True)}
    if parts.test:
        results["test"] = evaluate(best, tasks, parts.test, False)
    write_json(run / "metrics.json", results)


@torch.no_grad()
def evaluate(
    model: TransformersJoint, tasks: Sequence[Task], items: Sequence[Item], is_dev: bool
) -> Metrics:
    """The metrics of one split, by the definitions that ours is measured by."""
    model.eval()
    predictions: list[dict[str, Prediction]] = []
    for start in range(0, len(items), ROWS):
        predictions += model.predict(padded(items[start : start + ROWS]))
    if is_dev:
        tune(tasks, items, predictions)
    return measure(tasks, items, predictions)


def summary(tasks: Sequence[Task], results: dict[str, list[Metrics]]) -> str:
    """Mean and, of several seeds, the sample's standard deviation of each engine's metrics."""
    rows: list[Sequence[str]] = [("", *(f"{e}, {_counted(runs)}" for e, runs in results.items()))]
    for task in tasks:
        for metric in (m for m in task.metrics if m.is_shown):
            cells = []
            for runs in results.values():
                values = [float(run[task.name][metric.name]) for run in runs]  # type: ignore[index]
                spread = f" ± {metric.text(statistics.stdev(values))}" if len(values) > 1 else ""
                cells.append(metric.text(statistics.mean(values)) + spread)
            rows.append((f"{task.name} {metric.name}", *cells))
    frames = {e: [r[FRAME.name] for r in runs if FRAME.name in r] for e, runs in results.items()}
    if all(frames.values()):
        means = [statistics.mean(map(float, values)) for values in frames.values()]  # type: ignore[arg-type]
        rows.append(("frame accuracy", *map(FRAME.text, means)))
    return table(rows)


def _counted(runs: Sequence[Metrics]) -> str:
    return "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"


def main(arguments: list[str] | None = None) -> int:
    """Train what is not trained yet, and print. Returns the exit status, as `run_program`."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.finetune", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="how many, from the recipe's own on (3)"
    )
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=ENGINES, help="both, or one of them"
    )
    options, rest = parser.parse_known_args(arguments)

    def program() -> None:
        settings, *_ = command_line(rest, "python -m tools.finetune", "")
        folder = Path(settings.output or f"runs/finetune-{Path(settings.data[0]).name}")
        tasks = assemble(settings, announce=lambda _: None).tasks
        if "transformers" in options.engines:
            check_comparable(settings, tasks)
        results: dict[str, list[Metrics]] = {}
        for engine in options.engines:
            for seed in range(settings.seed, settings.seed + options.seeds):
                run = folder / f"{engine}-{seed}"
                if not (run / "metrics.json").exists():
                    one = train if engine == "minibert" else train_transformers
                    one(replace(settings, seed=seed, output=str(run)), run)
                content = read_object(run / "metrics.json")
                results.setdefault(engine, []).append(content.get("test", content["dev"]))
        print(summary(tasks, results))

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
