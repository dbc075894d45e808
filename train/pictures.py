"""The pictures of a run's report, as SVG, where matplotlib is installed."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from train.analysis import Analysis, Calibration
from train.checkpoint import Progress
from train.optimizer import learning_rates
from train.progress import of_task
from train.setup import Parts
from train.tasks.records import LOSS

# Each colour's name, and what it is on light paper and on dark: Okabe and Ito's (2008), which
# people who confuse red and green tell apart.
PALETTE = {
    "ink": ("#1f2328", "#dfe3e8"),
    "paper": ("#fefefe", "#15181c"),
    "blue": ("#0072b2", "#56b4e9"),
    "vermillion": ("#d55e00", "#f0894d"),
    "green": ("#009e73", "#2fbf94"),
    "purple": ("#cc79a7", "#dd9cc0"),
    "orange": ("#e69f00", "#f0b429"),
    "sky": ("#57b5ea", "#a5d8f5"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
SERIES = [LIGHT[name] for name in PALETTE if name not in ("ink", "paper")]
LINES = ("-", "--", ":")
INK = LIGHT["ink"]
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, which is searched, selected and read aloud
    "svg.hashsalt": "minibert",  # the same run draws the same file
    "text.color": INK,
    "text.parse_math": False,  # a name may have dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
}
SIZE = (3.5, 2.4)  # inches: two beside each other where there is room, else one under the other
LEGEND = 0.17  # inches: the height of a line that names a curve
MOST_POINTS = 120  # of a curve; each is the mean of as many steps
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """A line of a picture: its name, its points (x, y), and how it is drawn."""

    name: str
    points: Points
    color: str
    line: str = "-"  # as matplotlib writes it; with a marker, "o--"


def palette_css() -> str:
    """The colours as variables of CSS, light and dark."""
    light, dark = (
        "".join(f"--{name}:{of_name[i]};" for name, of_name in PALETTE.items()) for i in (0, 1)
    )
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def draw_pictures(
    parts: Parts,
    progress: Progress,
    log: Sequence[Mapping[str, Any]],
    analyses: Mapping[str, Analysis],
) -> dict[tuple[str, str], str] | None:
    """What there is to draw of a run, as SVG by what it shows and of which task: ("loss", "topic").
    Returns None where matplotlib is not installed.

    log: the lines of RUN/log.jsonl.
    """
    try:
        import matplotlib.figure  # not pyplot, which sets a backend for the whole process
        import matplotlib.style
    except ModuleNotFoundError:
        return None
    blue, vermillion, best = LIGHT["blue"], LIGHT["vermillion"], progress.best_step
    steps = [entry for entry in log if "norm" in entry]
    figures: dict[tuple[str, str], Any] = {}

    def new(what: str, task: str = "", more: float = 0.0) -> Any:
        size = (SIZE[0], SIZE[1] + more)
        figure = figures[what, task] = matplotlib.figure.Figure(size, layout="constrained")
        return figure.subplots()

    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font may lack characters of a name
        for task in parts.tasks:
            dev = {e["step"]: of_task(e["dev"], task.name) for e in progress.history}
            main = task.metrics[0]
            loss = [(step, found[LOSS.name]) for step, found in dev.items() if LOSS.name in found]
            scale = 100 if main.is_percent else 1
            metric = [(s, found[main.name] * scale) for s, found in dev.items() if found]
            learnt = binned([(e["step"], e["loss"].get(task.name)) for e in steps])
            if learnt or loss:
                losses = [Curve("train", learnt, blue), Curve("dev", loss, vermillion, "o--")]
                draw_curves(new("loss", task.name), losses, best)
            if metric:
                on_dev = Curve("dev", metric, vermillion, "o--")
                draw_curves(new("metric", task.name), [on_dev], best)
            calibration = analyses[task.name].calibration if task.name in analyses else None
            if calibration is not None:
                draw_reliability(new("calibration", task.name), calibration)
        if rates := rate_curves(parts, steps):
            axes = new("rates", more=len(rates) * LEGEND)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            draw_curves(axes, rates)
        if cosines := cosine_curves([task.name for task in parts.tasks], steps):
            axes = new("cosines", more=len(cosines) * LEGEND)
            axes.axhline(0, color=INK, linewidth=0.6)
            draw_curves(axes, cosines)
        return {key: as_svg(figure) for key, figure in figures.items()}


def rate_curves(parts: Parts, steps: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The learning rate of each unit while it learnt. Units of equal rates share a curve."""
    rates, plan = learning_rates(parts.model, parts.settings), parts.plan
    last = steps[-1]["epoch"] if steps else 0
    shared: dict[tuple[float, int], list[str]] = {}
    for name, unit in parts.model.units().items():
        learns = [epoch for epoch in range(1, last + 1) if name not in plan.frozen_in(epoch)]
        if learns and any(p.numel() for p in unit.parameters()):
            shared.setdefault((rates[name], learns[0]), []).append(name)
    curves = []
    for i, ((rate, first), names) in enumerate(shared.items()):
        points = [(e["step"], e.get("rate")) for e in steps if e["epoch"] >= first]
        scaled = [(step, rate * share) for step, share in binned(points) if share > 0]
        name = ", ".join(names) if len(names) < 3 else f"{names[0]} to {names[-1]}"
        curves.append(Curve(name, scaled, SERIES[i % len(SERIES)], LINES[i // len(SERIES) % 3]))
    return curves


def cosine_curves(names: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The cosine of each two tasks' gradients, where it was logged."""
    curves = []
    for i, (a, b) in enumerate(combinations(names, 2)):
        points = binned([(e["step"], e.get(f"gradient_cosine.{a}.{b}")) for e in steps])
        if points:
            curves.append(Curve(f"{a}, {b}", points, SERIES[i % len(SERIES)]))
    return curves


def binned(points: Sequence[tuple[float, float | None]]) -> Points:
    """At most MOST_POINTS means of points that follow each other. Those without a number, of
    skipped steps and other tasks, are left out."""
    known = [(x, y) for x, y in points if y is not None]
    size = -(-len(known) // MOST_POINTS)
    groups = (known[i : i + size] for i in range(0, len(known), size or 1))
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def draw_curves(axes: Any, curves: Sequence[Curve], best: int = 0) -> None:
    """Numbers by step. best: the step whose weights were kept, if it is to be shown."""
    if best:
        axes.axvline(best, color=INK, linewidth=0.8, linestyle=":", label="best step")
    for curve in curves:
        if curve.points:
            x, y = zip(*curve.points, strict=True)
            style = {"color": curve.color, "mfc": LIGHT["paper"], "ms": 4, "lw": 1.4}
            axes.plot(x, y, curve.line, label=curve.name, **style)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.grid()
    if best:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
    else:  # as many names as there are units or pairs of tasks
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.25), borderaxespad=0)


def draw_reliability(axes: Any, calibration: Calibration) -> None:
    """How often predictions of each probability are right; on the diagonal, as often as they
    say."""
    axes.plot((0, 1), (0, 1), "--", color=INK, linewidth=0.8)
    for b in calibration.bins:
        axes.plot(
            b.probability,
            b.accuracy,
            "o",
            color=LIGHT["blue"],
            clip_on=False,
            ms=4 + min(b.count, 100) / 20,
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability", ylabel="share that is right")
    axes.grid()


def as_svg(figure: Any) -> str:
    """A figure as SVG that takes its colours and its font from where it stands, without a
    background."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', "", svg)  # of groups, which each figure numbers from 1
    svg = re.sub(r"font: (?:\w+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for name, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg
