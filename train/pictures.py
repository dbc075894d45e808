"""The pictures that a run leaves, where matplotlib is installed."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.files import replacing
from train.analysis import Analysis, Calibration, Confusion
from train.tasks.base import Task
from train.tasks.records import LOSS

MOST_NUMBERED = 15  # classes of a confusion matrix whose cells have room for a number


def draw_pictures(
    run: Path,
    history: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    analyses: Mapping[str, Analysis],
) -> list[str]:
    """Draw curves.png, confusion.png and reliability.png into a run's folder, as far as there is
    something to draw. Returns the names of the files; none where matplotlib is not installed."""
    try:
        import matplotlib.figure  # not pyplot, which sets a backend for the whole process
    except ModuleNotFoundError:
        return []
    new = matplotlib.figure.Figure
    confusions = {n: a.confusion for n, a in analyses.items() if a.confusion is not None}
    calibrations = {n: a.calibration for n, a in analyses.items() if a.calibration is not None}
    figures = {}
    if history:
        figures["curves.png"] = figure = new(figsize=(9, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_curves(left, right, history, tasks)
    if confusions:
        size = (5.5 * len(confusions), 4.8)
        figures["confusion.png"] = figure = new(figsize=size, layout="constrained")
        every = figure.subplots(1, len(confusions), squeeze=False)[0]
        for axes, (name, confusion) in zip(every, confusions.items(), strict=True):
            draw_confusion(axes, name, confusion)
    if calibrations:
        size = (4.0 * len(calibrations), 3.8)
        figures["reliability.png"] = figure = new(figsize=size, layout="constrained")
        every = figure.subplots(1, len(calibrations), squeeze=False)[0]
        for axes, (name, calibration) in zip(every, calibrations.items(), strict=True):
            draw_reliability(axes, name, calibration)
    for name, figure in figures.items():
        with replacing(run / name) as beside, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the font may lack characters of a label
            figure.savefig(beside, format="png", dpi=120)
    return list(figures)


def draw_curves(
    left: Any, right: Any, history: Sequence[Mapping[str, Any]], tasks: Sequence[Task]
) -> None:
    """Each task's loss in training and on dev, and its main metric on dev."""
    for i, task in enumerate(tasks):
        main, color = task.metrics[0].name, f"C{i}"
        dev = [(e["step"], e["dev"][task.name]) for e in history if task.name in e["dev"]]
        train = [(e["step"], e["loss"][task.name]) for e in history if task.name in e["loss"]]
        losses = [(step, values[LOSS.name]) for step, values in dev if LOSS.name in values]
        values = [(step, values[main]) for step, values in dev]
        for axes, points, label, line, inside in (
            (left, train, f"{task.name}, train", "-", color),
            (left, losses, f"{task.name}, dev", "--", "white"),
            (right, values, f"{task.name} {main}", "-", color),
        ):
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, line, marker="o", mfc=inside, color=color, label=label)
    left.set(title="loss", xlabel="step")
    right.set(title="dev", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            for text in axes.legend().get_texts():
                text.set_parse_math(False)  # a name may have dollar signs


def draw_confusion(axes: Any, name: str, confusion: Confusion) -> None:
    """The share of each right class (a row) that was predicted as each class (a column)."""
    shares = [[count / max(sum(row), 1) for count in row] for row in confusion.counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    numbers = range(len(confusion.labels))
    size = 9 if len(numbers) <= MOST_NUMBERED else max(2.0, 150 / len(numbers))
    axes.set_xticks(numbers, confusion.labels, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(numbers, confusion.labels, fontsize=size, parse_math=False)
    axes.set_title(name, parse_math=False)
    axes.set(xlabel="predicted", ylabel="right")
    for i in numbers if len(numbers) <= MOST_NUMBERED else ():
        for j in numbers:
            color = "white" if shares[i][j] > 0.5 else "black"
            count = str(confusion.counts[i][j])
            axes.text(j, i, count, ha="center", va="center", color=color, fontsize=size)


def draw_reliability(axes: Any, name: str, calibration: Calibration) -> None:
    """How often predictions of each probability are right; on the diagonal, as often as they
    say."""
    for b in calibration.bins:
        axes.bar(b.low, b.accuracy, width=b.high - b.low, align="edge", color="C0", edgecolor="w")
    axes.plot((0, 1), (0, 1), "--", color="grey")
    error = f"{calibration.expected_error * 100:.2f}"
    axes.set_title(f"{name}, expected calibration error {error}", parse_math=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="share that is right")
