"""What a run shows on screen, its tables, and the predictions that it leaves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.files import escaped, one_line, write_text
from minibert.formats.hub import hub_id
from train.analysis import Analysis, Calibration, Confusion, example_fields
from train.batches import Item
from train.data.examples import Example
from train.data.read import name_of
from train.freezing import FreezingPlan
from train.model import JointModel
from train.optimizer import learning_rates, no_decay
from train.parse import parse_pairs
from train.progress import Metrics
from train.settings import Settings
from train.setup import Parts
from train.tasks.base import Task
from train.tasks.records import FRAME, LOSS, Metric, Prediction
from train.words import UsedWords

FEW = 12  # labels, of which each has its place on the screen
MOST_CHARACTERS = 300  # of a text in the report; predictions.jsonl has the whole text
Rows = Sequence[Sequence[str]]  # of a table; the first is its head


def numeric(rows: Rows) -> list[bool]:
    """Which columns hold numbers, and so align right."""
    return [
        all(cell.lstrip("-")[:1].isdigit() or cell in ("", "-") for cell in column)
        for column in zip(*rows[1:], strict=True)
    ] or [False] * len(rows[0])


def table(rows: Rows) -> str:
    """Rows as aligned columns, each on one line."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            c.rjust(w) if right else c.ljust(w)
            for c, w, right in zip(row, widths, numeric(rows), strict=True)
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
    if expected := parse_pairs(parts.settings.expect, "expect"):
        listed = ", ".join(f"{loss} at step {step}" for step, loss in expected.items())
        lines.append(f"a recorded run of these settings had these dev losses: {listed}")
    lines.append(table(group_rows(parts.model, parts.plan, parts.settings)))
    return "\n".join(lines)


def group_rows(model: JointModel, plan: FreezingPlan, settings: Settings) -> Rows:
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
    return rows


def shown_metrics(task: Task, values: Mapping[str, float]) -> list[Metric]:
    """Which of a task's metrics people look at: its kind's, and the loss where it is known."""
    return [m for m in (*task.metrics, LOSS) if m.is_shown or (m is LOSS and m.name in values)]


def shown(metrics: Metrics, tasks: Sequence[Task]) -> str:
    """The metrics that people look at, on one line."""
    parts = []
    for task in tasks:
        if isinstance(values := metrics.get(task.name), dict):
            found = [f"{m.name} {m.text(values[m.name])}" for m in shown_metrics(task, values)]
            parts.append(f"{task.name} {' '.join(found)}")
    if isinstance(frame := metrics.get(FRAME.name), float):
        parts.append(f"{FRAME.name} {FRAME.text(frame)}")
    return "  ".join(parts)


def final_table(results: Mapping[str, Metrics], tasks: Sequence[Task]) -> str:
    """The metrics of several runs or splits side by side, as text."""
    return table(final_rows(results, tasks))


def final_rows(results: Mapping[str, Metrics], tasks: Sequence[Task]) -> Rows:
    """The metrics of several runs or splits side by side."""
    rows: list[Sequence[str]] = [("", *results)]
    for task in tasks:
        found = (result.get(task.name) for result in results.values())
        columns = [values if isinstance(values, dict) else {} for values in found]
        known = {name: value for values in columns for name, value in values.items()}
        for metric in shown_metrics(task, known) if known else ():
            cells = (
                metric.text(values[metric.name]) if metric.name in values else "-"
                for values in columns
            )
            rows.append((f"{task.name} {metric.name}", *cells))
    frames = [result.get(FRAME.name) for result in results.values()]
    if any(frame is not None for frame in frames):
        cells = (FRAME.text(frame) if isinstance(frame, float) else "-" for frame in frames)
        rows.append(("frame accuracy", *cells))
    return rows


def model_card(
    settings: Settings, tasks: Sequence[Task], results: Mapping[str, Metrics]
) -> tuple[dict[str, Any], str]:
    """What a run's model card tells the Hub, and what it tells people, in Markdown.

    The Hub's are the base model and the data sets, if they are from there. People's are base model,
    data, tasks, metrics and settings, without paths of this machine.
    """
    base = hub_id(settings.model)
    # OWNER/NAME, without a CONFIG
    sources = [name_of(name)[1] for name in settings.data]
    sets = ["/".join(name[4:].split("/")[:2]) for name in sources if name.startswith("hub:")]
    facts = ({"base_model": base} if base else {}) | ({"datasets": sets} if sets else {})
    data = ", ".join(
        name if name.startswith("hub:") else Path(name).name for name in (*sources, *settings.text)
    )
    names = ", ".join(task.summary() for task in tasks)
    paths = ("data", "text", "dev_data", "model", "tokenizer", "output", "device")
    chosen = settings.toml(without=paths)
    return facts, (
        f"## Training\n\nBy minibert, from {base or Path(settings.model).name} on {data}. "
        f"Tasks: {names}.\n\n"
        f"```\n{final_table(results, tasks)}\n```\n\n```toml\n{chosen}```\n"
    )


def label_rows(name: str, figures: Mapping[str, Mapping[str, float]]) -> Rows:
    """The figures of each label of a task: what `Task.per_label` returns."""
    columns = list(dict.fromkeys(column for of_label in figures.values() for column in of_label))
    rows: list[Sequence[str]] = [(name, *columns)]
    for label, values in figures.items():
        cells = (
            f"{values[column]:.0f}" if column == "support" else f"{values[column] * 100:.2f}"
            for column in columns
        )
        rows.append((label, *cells))
    return rows


def label_tables(analyses: Mapping[str, Analysis]) -> list[str]:
    """The figures of each label, of the tasks that have few: what the screen has room for."""
    return [
        table(label_rows(name, analysis.per_label))
        for name, analysis in analyses.items()
        if 0 < len(analysis.per_label) <= FEW
    ]


def confusion_rows(confusion: Confusion, most: int = FEW) -> Rows:
    """A row for each right class, a column for each predicted one; of more than `most` classes,
    only the commonest mistakes."""
    if len(confusion.labels) <= most:
        counts = (map(str, row) for row in confusion.counts)
        rows = [(label, *row) for label, row in zip(confusion.labels, counts, strict=True)]
        return [("right \\ predicted", *confusion.labels), *rows]
    mistakes = confusion.commonest()[:FEW]
    return [("right", "predicted", "times"), *((g, p, f"{n}") for g, p, n in mistakes)]


def calibration_rows(calibration: Calibration) -> Rows:
    """The bins that the expected calibration error is the mean of."""
    rows: list[Sequence[str]] = [("probability", "predictions", "mean probability", "right")]
    for b in calibration.bins:
        means = (f"{b.probability * 100:.2f}", f"{b.accuracy * 100:.2f}")
        rows.append((f"{b.low:.2f} to {b.high:.2f}", str(b.count), *means))
    return rows


def mistakes_list(task: Task, mistakes: Sequence[tuple[Item, Prediction]]) -> str:
    """The text, what is right, what was predicted, and where the text stands in the data, for each
    of some mistakes."""
    entries = []
    for i, (item, prediction) in enumerate(mistakes, start=1):
        example = item.example
        entries.append(
            f"{i:2}. {text_of(example, MOST_CHARACTERS)}\n"
            f"    right      {one_line(task.readable(example.labels[task.name], example))}\n"
            f"    predicted  {one_line(task.as_text(prediction, example))}\n"
            f"    from       {one_line(example.where)}"
        )
    return "\n".join(entries)


def texts_of(example: Example) -> list[str]:
    """All texts of an example."""
    second = () if example.second is None else (example.second,)
    return [example.text, *second, *(example.choices or ())]


def text_of(example: Example, most: int | None = None) -> str:
    """All texts of an example on one line, each of at most so many characters."""
    texts = (escaped(" ".join(text.split())) for text in texts_of(example))
    return " | ".join(t if most is None or len(t) <= most else f"{t[:most]} ..." for t in texts)


def report_sections(
    results: Mapping[str, Metrics], tasks: Sequence[Task], analyses: Mapping[str, Analysis]
) -> list[tuple[str, str]]:
    """What `train.evaluate` prints, as headings and texts. analyses: of the last of the
    results."""
    last = list(results)[-1]
    sections = [("metrics", final_table(results, tasks))]
    for task in tasks:
        if (analysis := analyses.get(task.name)) is None:
            continue
        labels, confusion = analysis.per_label, analysis.confusion
        bins = error = ""
        if calibration := analysis.calibration:
            error = f", expected error {calibration.expected_error * 100:.2f}"
            bins = table(calibration_rows(calibration))
        parts = {
            "labels": table(label_rows("", labels)) if labels else "",
            "confusions": table(confusion_rows(confusion)) if confusion else "",
            f"calibration{error}": bins,
            "the worst mistakes": mistakes_list(task, analysis.worst),
        }
        sections += [(f"{task.name}, {last}: {name}", text) for name, text in parts.items() if text]
    return sections


def write_predictions(
    file: Path,
    tasks: Sequence[Task],
    items: Sequence[Item],
    predictions: Sequence[Mapping[str, Prediction]],
) -> None:
    """Write a JSON object a line: an item's text, and for each of its labels what is right, what
    was predicted, and the probability of each class."""
    lines = []
    for item, predicted in zip(items, predictions, strict=True):
        record = example_fields(item)
        for task in tasks:
            if task.name in item.example.labels:
                gold, found = item.example.labels[task.name], predicted[task.name]
                scores = {} if found.scores is None else {"scores": found.scores}
                record[task.name] = task.beside_gold(gold, found) | scores
        lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(file, "".join(lines))
