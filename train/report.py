"""What a run shows on screen, and the pictures and predictions that it leaves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.files import InputError, replacing
from minibert.formats.hub import hub_id
from train.data import Item, Label
from train.evaluate import Metrics
from train.freezing import FreezingPlan
from train.metrics import entities
from train.optimizer import learning_rates
from train.settings import Settings
from train.tasks import JointModel, Prediction, Task

PERCENT = ("accuracy", "f1", "macro_f1", "macro_recall", "frame")


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


def groups_table(model: JointModel, plan: FreezingPlan, settings: Settings) -> str:
    """Every unit: its parameters, whether they learn, how fast, with what decay. Equal layers share
    a row."""
    rates = learning_rates(model, settings)
    starts = {
        unit: epoch for epoch, units in sorted(plan.thawed.items(), reverse=True) for unit in units
    }
    merged: list[tuple[list[str], tuple[str, ...]]] = []
    for name, unit in model.units().items():
        size = sum(parameter.numel() for parameter in unit.parameters())
        if not size:
            continue
        if name not in plan.frozen:
            learns = "learns"
        else:
            learns = f"learns from epoch {starts[name]}" if name in starts else "frozen"
        rate = "-" if learns == "frozen" else f"{rates[name]:.3g}"
        decay = "-" if learns == "frozen" else f"{settings.weight_decay:g}"
        row = (f"{size:,}", learns, rate, decay)
        if (
            merged
            and merged[-1][1] == row
            and name.startswith("layers.")
            and merged[-1][0][0].startswith("layers.")
        ):
            merged[-1][0].append(name)
        else:
            merged.append(([name], row))
    rows: list[Sequence[str]] = [("unit", "parameters", "state", "learning rate", "weight decay")]
    for names, cells in merged:
        first = (
            names[0]
            if len(names) == 1
            else f"{names[0]}-{names[-1].removeprefix('layers.')} (each)"
        )
        rows.append((first, *cells))
    return table(rows)


def shown(metrics: Metrics, tasks: Sequence[Task]) -> str:
    """The main metrics on one line, in percent."""
    parts = []
    for task in tasks:
        if isinstance(values := metrics.get(task.name), dict):
            parts += [
                f"{task.name} "
                + " ".join(f"{m} {number(m, values[m])}" for m in task.shown_metrics)
            ]
    if isinstance(frame := metrics.get("frame"), float):
        parts.append(f"frame {number('frame', frame)}")
    return "  ".join(parts)


def number(metric: str, value: float) -> str:
    return f"{value * 100:.2f}" if metric in PERCENT else f"{value:.4f}"


def final_table(results: Mapping[str, Metrics], tasks: Sequence[Task]) -> str:
    """The metrics of several runs or splits side by side."""
    rows: list[Sequence[str]] = [("", *results)]
    for task in tasks:
        for metric in task.shown_metrics:
            cells = [
                value[metric] if isinstance(value := result.get(task.name), dict) else None
                for result in results.values()
            ]
            rows.append(
                (f"{task.name} {metric}", *("-" if c is None else number(metric, c) for c in cells))
            )
    if any("frame" in result for result in results.values()):
        frames = [result.get("frame") for result in results.values()]
        rows.append(
            (
                "frame accuracy",
                *(number("frame", f) if isinstance(f, float) else "-" for f in frames),
            )
        )
    return table(rows)


def card_facts(settings: Settings) -> dict[str, Any]:
    """What a model card tells the Hub of a run: the base model and the data sets, if they are from
    there."""
    base = hub_id(settings.model)
    # without a CONFIG
    sets = ["/".join(name[4:].split("/")[:2]) for name in settings.data if name.startswith("hub:")]
    return ({"base_model": base} if base else {}) | ({"datasets": sets} if sets else {})


def training_card(settings: Settings, tasks: Sequence[Task], results: Mapping[str, Metrics]) -> str:
    """What it tells people, in Markdown: base model, data, tasks, metrics, settings; no paths of
    this machine."""
    base = hub_id(settings.model) or Path(settings.model).name
    data = ", ".join(name if name.startswith("hub:") else Path(name).name for name in settings.data)
    names = ", ".join(
        f"{task.name} ({task.kind}, {len(task.labels) or 'no'} labels)" for task in tasks
    )
    chosen = settings.toml(without=("data", "model", "output", "device"))
    return (
        f"## Training\n\nBy minibert, from {base} on {data}. Tasks: {names}.\n\n"
        f"```\n{final_table(results, tasks)}\n```\n\n```toml\n{chosen}```\n"
    )


def prediction_records(
    tasks: Sequence[Task], items: Sequence[Item], predictions: Sequence[Mapping[str, Prediction]]
) -> list[dict[str, Any]]:
    """For each item its text, and for each of its labels what is right and what was predicted."""
    records = []
    for item, predicted in zip(items, predictions, strict=True):
        record: dict[str, Any] = {"text": item.example.text}
        if item.example.second is not None:
            record["second"] = item.example.second
        if item.example.words is not None:
            record["words"] = item.example.words
        for task in tasks:
            if task.name in item.example.labels:
                found = predicted[task.name]
                record[task.name] = {
                    "gold": item.example.labels[task.name],
                    "predicted": found.label,
                }
                if isinstance(found.probability, float):
                    record[task.name]["probability"] = found.probability
        records.append(record)
    return records


def readable(label: Label, item: Item) -> str:
    """A label for people: of tags, the entities with their words."""
    if not isinstance(label, tuple):
        return str(label)
    words = item.example.words or ()
    found = sorted(entities(label), key=lambda entity: entity[1])
    return (
        "; ".join(f"{kind} = {' '.join(words[start:end])}" for kind, start, end in found)
        or "nothing"
    )


def write_json_lines(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with replacing(file) as beside:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        beside.write_text("".join(lines), encoding="utf-8")


def draw_curves(run: Path, history: Sequence[Mapping[str, Any]], tasks: Sequence[Task]) -> bool:
    """RUN/curves.png: each task's training loss and main dev metric. False where matplotlib is not
    installed, or nothing was trained."""
    if not history:
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for task in tasks:
        losses = [
            (entry["step"], entry["loss"][task.name])
            for entry in history
            if task.name in entry["loss"]
        ]
        scores = [
            (entry["step"], entry["dev"][task.name][task.main_metric])
            for entry in history
            if task.name in entry["dev"]
        ]
        left.plot(*zip(*losses, strict=True), marker="o", label=task.name) if losses else None
        right.plot(
            *zip(*scores, strict=True), marker="o", label=f"{task.name} {task.main_metric}"
        ) if scores else None
    left.set(title="training loss", xlabel="step")
    right.set(title="dev", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(run / "curves.png") as beside:
        figure.savefig(beside, format="png", dpi=120)
    pyplot.close(figure)
    return True


def tensorboard(run: Path, step: int) -> Any:
    """A writer of RUN/tensorboard, from after this step on: what was written of later steps before
    a resumption is void. Raises InputError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tensorboard = true needs the tensorboard package: install it (pip install tensorboard), or leave this out"
        ) from error
    return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)


def add_scalars(board: Any, name: str, values: Mapping[str, Any], step: int) -> None:
    """Write numbers to TensorBoard; a mapping inside a mapping is a folder there:
    "dev/intent/accuracy"."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            add_scalars(board, f"{name}/{key}", value, step)
        else:
            board.add_scalar(f"{name}/{key}", value, step)
