"""What a run shows on screen, and the pictures and predictions that it leaves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.files import replacing, write_text
from minibert.formats.hub import hub_id
from train.batches import Item
from train.evaluation import Metrics
from train.freezing import FreezingPlan
from train.model import JointModel
from train.optimizer import learning_rates, no_decay
from train.settings import Settings
from train.setup import Parts
from train.tasks.base import FRAME, Prediction, Task
from train.words import UsedWords


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns; the first row is the head. Columns of numbers align right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = [
        all(row[i].lstrip("-")[:1].isdigit() or row[i] in ("", "-") for row in rows[1:])
        for i in range(len(rows[0]))
    ]
    lines = []
    for row in rows:
        cells = (
            c.rjust(w) if right else c.ljust(w)
            for c, w, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def overview(parts: Parts, words: UsedWords | None) -> str:
    """What a run begins with: its data, tasks and units. words: the rows that are held, if not
    all."""
    num_train, num_dev, num_test = sum(map(len, parts.sources)), len(parts.dev), len(parts.test)
    lines = [
        f"{num_train} train, {num_dev} dev, {num_test} test examples; tasks: "
        + ", ".join(task.summary() for task in parts.tasks)
    ]
    if words is not None:
        lines.append(
            f"{len(words.used):,} of {parts.encoder.bert.config.vocab_size:,} words occur; only "
            "their rows are held, and one more that measures weight decay"
        )
    lines.append(groups_table(parts.model, parts.plan, parts.settings))
    return "\n".join(lines)


def groups_table(model: JointModel, plan: FreezingPlan, settings: Settings) -> str:
    """Every unit: its parameters, whether they learn, how fast, with what decay, and how many of
    them have none (biases and norms). Equal layers share a row."""
    rates = learning_rates(model, settings)
    merged: list[tuple[list[str], tuple[str, ...]]] = []
    for name, unit in model.units().items():
        size = sum(parameter.numel() for parameter in unit.parameters())
        if not size:
            continue
        free = no_decay(unit)
        undecayed = sum(p.numel() for p in unit.parameters() if id(p) in free)
        starts = [epoch for epoch, units in plan.thawed.items() if name in units]
        later = f"learns from epoch {min(starts)}" if starts else "frozen"
        state = later if name in plan.frozen else "learns"
        learning = (f"{rates[name]:.3g}", f"{settings.weight_decay:g}", f"{undecayed:,}")
        row = (f"{size:,}", state, *(("-", "-", "-") if state == "frozen" else learning))
        is_layer = name.startswith("layers.")
        if merged and merged[-1][1] == row and is_layer and merged[-1][0][0].startswith("layers."):
            merged[-1][0].append(name)
        else:
            merged.append(([name], row))
    head = ("unit", "parameters", "state", "learning rate", "weight decay", "without decay")
    rows: list[Sequence[str]] = [head]
    for names, cells in merged:
        first, last = names[0], names[-1].removeprefix("layers.")
        rows.append((first if len(names) == 1 else f"{first}-{last} (each)", *cells))
    return table(rows)


def shown(metrics: Metrics, tasks: Sequence[Task]) -> str:
    """The metrics that people look at, on one line."""
    parts = []
    for task in tasks:
        if isinstance(values := metrics.get(task.name), dict):
            found = [f"{m.name} {m.text(values[m.name])}" for m in task.metrics if m.is_shown]
            parts.append(f"{task.name} {' '.join(found)}")
    if isinstance(frame := metrics.get(FRAME.name), float):
        parts.append(f"{FRAME.name} {FRAME.text(frame)}")
    return "  ".join(parts)


def final_table(results: Mapping[str, Metrics], tasks: Sequence[Task]) -> str:
    """The metrics of several runs or splits side by side."""
    rows: list[Sequence[str]] = [("", *results)]
    for task in tasks:
        columns = [result.get(task.name) for result in results.values()]
        for metric in task.metrics:
            if metric.is_shown:
                cells = (
                    metric.text(values[metric.name]) if isinstance(values, dict) else "-"
                    for values in columns
                )
                rows.append((f"{task.name} {metric.name}", *cells))
    frames = [result.get(FRAME.name) for result in results.values()]
    if any(frame is not None for frame in frames):
        cells = (FRAME.text(frame) if isinstance(frame, float) else "-" for frame in frames)
        rows.append(("frame accuracy", *cells))
    return table(rows)


def model_card(
    settings: Settings, tasks: Sequence[Task], results: Mapping[str, Metrics]
) -> tuple[dict[str, Any], str]:
    """What a run's model card tells the Hub, and what it tells people, in Markdown.

    The Hub's are the base model and the data sets, if they are from there. People's are base model,
    data, tasks, metrics and settings, without paths of this machine.
    """
    base = hub_id(settings.model)
    # OWNER/NAME, without a CONFIG
    sets = ["/".join(name[4:].split("/")[:2]) for name in settings.data if name.startswith("hub:")]
    facts = ({"base_model": base} if base else {}) | ({"datasets": sets} if sets else {})
    data = ", ".join(name if name.startswith("hub:") else Path(name).name for name in settings.data)
    names = ", ".join(task.summary() for task in tasks)
    chosen = settings.toml(without=("data", "model", "output", "device"))
    return facts, (
        f"## Training\n\nBy minibert, from {base or Path(settings.model).name} on {data}. "
        f"Tasks: {names}.\n\n"
        f"```\n{final_table(results, tasks)}\n```\n\n```toml\n{chosen}```\n"
    )


def write_predictions(
    file: Path,
    tasks: Sequence[Task],
    items: Sequence[Item],
    predictions: Sequence[Mapping[str, Prediction]],
) -> None:
    """Write a JSON object a line: an item's text, and for each of its labels what is right and what
    was predicted."""
    lines = []
    for item, predicted in zip(items, predictions, strict=True):
        record: dict[str, Any] = {"text": item.example.text}
        if item.example.second is not None:
            record["second"] = item.example.second
        if item.example.words is not None:
            record["words"] = item.example.words
        for task in tasks:
            if task.name in item.example.labels:
                gold = item.example.labels[task.name]
                record[task.name] = task.beside_gold(gold, predicted[task.name])
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(file, "".join(lines))


def draw_curves(run: Path, history: Sequence[Mapping[str, Any]], tasks: Sequence[Task]) -> bool:
    """RUN/curves.png: each task's training loss and main dev metric. False where matplotlib is not
    installed, or nothing was trained."""
    if not history:
        return False
    try:
        import matplotlib.figure  # not pyplot, which sets a backend for the whole process
    except ImportError:
        return False
    figure = matplotlib.figure.Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for task in tasks:
        main = task.metrics[0].name
        losses = [(e["step"], e["loss"][task.name]) for e in history if task.name in e["loss"]]
        values = [(e["step"], e["dev"][task.name][main]) for e in history if task.name in e["dev"]]
        if losses:
            left.plot(*zip(*losses, strict=True), marker="o", label=task.name)
        if values:
            right.plot(*zip(*values, strict=True), marker="o", label=f"{task.name} {main}")
    left.set(title="training loss", xlabel="step")
    right.set(title="dev", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(run / "curves.png") as beside:
        figure.savefig(beside, format="png", dpi=120)
    return True
