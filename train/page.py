"""The report of a run: one page of HTML that needs nothing beside it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

from train.analysis import Analysis
from train.batches import Item
from train.checkpoint import Progress
from train.evaluation import Metrics
from train.markup import Pictures, figures_html, folded, html, table_html, write_page
from train.memory import peak_memory
from train.progress import of_task
from train.report import (
    FEW,
    MOST_CHARACTERS,
    Rows,
    calibration_rows,
    confusion_rows,
    final_rows,
    group_rows,
    label_rows,
    shown_metrics,
    texts_of,
)
from train.settings import Settings
from train.setup import Parts
from train.tasks.base import Task
from train.tasks.records import LOSS, Mark, Prediction

MOST_CLASSES = 30  # of a confusion matrix that is shown whole
RELIABILITY = "the share that is right, by probability; larger dots have more predictions"


def write_report(
    file: Path,
    parts: Parts,
    progress: Progress,
    log: Sequence[Mapping[str, Any]],
    results: Mapping[str, Metrics],
    analyses: Mapping[str, Analysis],
    drawn: Pictures | None,
) -> None:
    """Write a whole run's report.

    log: the lines of RUN/log.jsonl. analyses: of the last of the results. drawn: as
    `draw_pictures` returns it.
    """
    tasks, last, pictures = parts.tasks, list(results)[-1], drawn or {}
    step = progress.step if parts.settings.overfit_batch else progress.best_step
    told = f"The weights are those of step {step} of {progress.step}"
    told += "." if parts.settings.overfit_batch else ", the best on dev."
    if progress.skipped:
        told += f" {progress.skipped} steps were skipped: their loss or gradient was not finite."
    told = told if progress.step else "Nothing was trained."
    sections = {"Results": f"{table_html(final_rows(results, tasks))}<p>{told}</p>"}
    if progress.history:
        sections["Curves"] = curves_html(tasks, progress, pictures)
    for task in tasks:
        if task.name in analyses:
            title = f"{task.name} on {last}"
            sections[title] = task_html(task, analyses[task.name], pictures)
    sections["Settings"] = settings_html(parts.settings)
    sections["Data"] = data_html(parts)
    units = group_rows(parts.model, parts.plan, parts.settings)
    rates = figures_html(pictures, {("rates", ""): "learning rate by step"})
    sections["Learning rates and freezing"] = table_html(units) + rates
    if gradients := gradient_rows([task.name for task in tasks], log):
        sections["Gradients of the tasks"] = (
            "<p>How far the tasks' gradients on the encoder point the same way: below 0, they pull "
            "it apart.</p>"
            + table_html(gradients)
            + figures_html(pictures, {("cosines", ""): "cosine of the gradients by step"})
        )
    sections["Time and memory"] = costs_html(progress)
    if drawn is None:
        sections["Pictures"] = (
            "<p>There are none, because matplotlib is not installed: "
            "<code>pip install matplotlib</code></p>"
        )
    name = f"{file.absolute().parent.name}: report"
    write_page(file, name, ", ".join(task.summary() for task in tasks), sections)


def curves_html(tasks: Sequence[Task], progress: Progress, pictures: Pictures) -> str:
    """The losses and the main metric of each task; and all that was measured on dev, as numbers."""
    text = ""
    for task in tasks:
        main = f"{task.name}: {task.metrics[0].name} on dev"
        captions = {("loss", task.name): f"{task.name}: loss", ("metric", task.name): main}
        text += figures_html(pictures, captions)
    columns = [(task, metric) for task in tasks for metric in shown_metrics(task, {LOSS.name: 0.0})]
    rows: list[Sequence[str]] = [
        (
            "step",
            "epoch",
            *(f"{t.name} train loss" for t in tasks),
            *(f"{task.name} {metric.name}" for task, metric in columns),
        )
    ]
    for entry in progress.history:
        losses = (entry["loss"].get(task.name) for task in tasks)
        cells = ["-" if loss is None else LOSS.text(loss) for loss in losses]
        for task, metric in columns:
            value = of_task(entry["dev"], task.name).get(metric.name)
            cells.append("-" if value is None else metric.text(value))
        rows.append((str(entry["step"]), str(entry["epoch"]), *cells))
    return text + folded(
        "The same in numbers",
        table_html(rows, "the mean loss in training since the epoch began, and the metrics on dev"),
    )


def task_html(task: Task, analysis: Analysis, pictures: Pictures) -> str:
    """The figures of each label, the confusions, the calibration and the worst mistakes."""
    text = ""
    if analysis.per_label:
        text += table_html(
            label_rows("label", analysis.per_label), "figures of each label, in percent"
        )
    if confusion := analysis.confusion:
        rows, shares = confusion_rows(confusion, MOST_CLASSES), []
        caption = "the commonest mistakes"
        if len(confusion.labels) <= MOST_CLASSES:
            shares = [[n / max(sum(row), 1) for n in row] for row in confusion.counts]
            caption = "rows: right; columns: predicted; shade: share of the row"
        text += "<h3>What was confused with what</h3>" + table_html(rows, caption, shares)
    if calibration := analysis.calibration:
        error = f"{calibration.expected_error * 100:.2f}"
        text += (
            "<h3>Calibration</h3>"
            f"<p>How far the probabilities can be believed: expected calibration error {error}.</p>"
            + figures_html(pictures, {("calibration", task.name): RELIABILITY})
            + folded("The same in numbers", table_html(calibration_rows(calibration)))
        )
    if analysis.worst:
        entries = "".join(mistake_html(task, *one) for one in analysis.worst)
        text += "<h3>The worst mistakes</h3>"
        if "<mark" in entries:
            text += (
                '<p class="muted">Marked: <mark class="right">right, and not predicted</mark>; '
                '<mark class="predicted">predicted, and wrong</mark>; <mark>in both</mark>.</p>'
            )
        text += f'<ol class="mistakes">{entries}</ol>'
    return text


def mistake_html(task: Task, item: Item, prediction: Prediction) -> str:
    """The texts, what is right, what was predicted, and where the texts stand in the data."""
    example, gold = item.example, item.example.labels[task.name]
    right, predicted = task.marks(gold, example), task.marks(prediction.label, example)
    texts = texts_of(example)
    shown = {"right": task.readable(gold, example), "predicted": task.as_text(prediction, example)}
    shown = {name: html(text) for name, text in shown.items()}
    if right and predicted:
        texts = [text for text in texts if text != right[0]]
        told = '<br><span class="muted">{}</span>'  # what the marks do not tell
        shown = {
            "right": marked_html(*right, predicted[1], "right")
            + ("" if right[1] else told.format(shown["right"])),
            "predicted": marked_html(*predicted, right[1], "predicted")
            + told.format(shown["predicted"]),
        }
    parts = [t if len(t) <= MOST_CHARACTERS else f"{t[:MOST_CHARACTERS]} ..." for t in texts]
    lines = "".join(f'<p dir="auto">{html(text)}</p>' for text in parts)
    pairs = "".join(f"<dt>{name}</dt><dd dir=auto>{text}</dd>" for name, text in shown.items())
    return f'<li>{lines}<dl>{pairs}</dl><p class="muted">{html(example.where)}</p></li>\n'


def marked_html(text: str, marks: Sequence[Mark], others: Sequence[Mark], side: str) -> str:
    """A text with its marks: those that the other side lacks stand out. Of a long text, what is
    around the marks of both."""
    ends = [place for mark in (*marks, *others) for place in (mark.start, mark.end)] or [0]
    around = MOST_CHARACTERS // 2
    start, end = max(0, min(ends) - around), max(ends) + around
    parts, done = ["... " if start else ""], start
    for mark in marks:
        if mark.start < done:  # two marks overlap
            continue
        differs = f' class="{side}"' if mark not in others else ""
        inside = html(text[mark.start : mark.end])
        parts += [
            html(text[done : mark.start]),
            f"<mark{differs}>{inside}<small>{html(mark.kind)}</small></mark>",
        ]
        done = mark.end
    return "".join([*parts, html(text[done:end]), " ..." if end < len(text) else ""])


def settings_html(settings: Settings) -> str:
    """All settings: first those that differ from their defaults."""
    rows: dict[bool, list[Sequence[str]]] = {True: [], False: []}
    for f in fields(Settings):
        values = (getattr(settings, f.name), f.default)
        value, default = map(setting_text, values)
        rows[values[0] != values[1]].append((f.name, value, default, f.metadata["help"]))
    changed = table_html([("setting", "value", "default", "what it is"), *rows[True]])
    kept = table_html(
        [("setting", "value", "what it is"), *((n, v, w) for n, v, _, w in rows[False])]
    )
    return (changed if rows[True] else "<p>All are the defaults.</p>") + folded(
        "The others have their defaults", kept
    )


def setting_text(value: Any) -> str:
    """A setting's value as people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def data_html(parts: Parts) -> str:
    """How many examples each data set has, and in how many each label occurs."""
    splits = {
        "train": [item for items in parts.labelled for item in items],
        "dev": parts.dev,
        "test": parts.test,
    }
    sizes: list[Sequence[str]] = [("data set", *splits)]
    data = parts.origin["data"]
    for one in data["sets"] if data else ():
        found = (one["splits"].get(split) for split in splits)
        sizes.append((one["name"], *(f"{s['examples']:,}" if s else "0" for s in found)))
    used = (sum(map(len, parts.sources)), len(parts.dev), len(parts.test))
    sizes.append(("all, as the run used them", *(f"{count:,}" for count in used)))
    text = table_html(sizes, "examples")
    for task in parts.tasks:
        counts = [
            Counter(
                label
                for item in items
                if task.name in item.example.labels
                for label in task.classes(item.example.labels[task.name])
            )
            for items in splits.values()
        ]
        if labels := sorted(set().union(*counts), key=lambda label: (-counts[0][label], label)):
            rows = [(label, *(f"{of_split[label]:,}" for of_split in counts)) for label in labels]
            table = table_html([(task.name, *splits), *rows], "examples that have each label")
            text += (
                table if len(labels) <= FEW else folded(f"{task.name}: {len(labels)} labels", table)
            )
    cut = sum(any(part.lost for part in item.parts) for item in parts.items())
    return text + (f"<p>{cut:,} examples were cut off at the model's limit.</p>" if cut else "")


def gradient_rows(names: Sequence[str], log: Sequence[Mapping[str, Any]]) -> Rows:
    """The mean cosine of each two tasks' gradients, and how often it was below 0; nothing where
    `log_gradients` did not ask for it."""
    rows: list[Sequence[str]] = []
    for a, b in combinations(names, 2):
        found = [entry.get(f"gradient_cosine.{a}.{b}") for entry in log]
        if cosines := [cosine for cosine in found if cosine is not None]:
            mean, below = sum(cosines) / len(cosines), sum(c < 0 for c in cosines) / len(cosines)
            rows.append((f"{a}, {b}", f"{mean:.3f}", f"{below * 100:.0f}", str(len(cosines))))
    head = ("tasks", "mean cosine", "below 0, % of the steps", "steps")
    return [head, *rows] if rows else []


def costs_html(progress: Progress) -> str:
    """Where the seconds went, and the most memory that was held at once."""
    total = sum(progress.seconds.values()) or math.inf  # a clock may stand still
    rows = [(what, f"{s:,.1f}", f"{s / total * 100:.0f}") for what, s in progress.seconds.items()]
    text = table_html([("what", "seconds", "%"), *rows, ("in all", f"{total:,.1f}", "100")])
    for where, size in peak_memory().items():
        text += (
            f"<p>The process that finished the run held at most {size / 2**20:,.0f} MiB of "
            f"{where}.</p>"
        )
    return text
