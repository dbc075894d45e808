"""The measurements as tables, and as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.files import InputError, write_text
from tools.benchmark.race import Result
from train.pictures import INK, LIGHT, STYLE, as_svg, palette_css

CORPORA = {"short": "short utterances", "mixed": "texts of 4 to 256 tokens"}  # for people
ABOVE_BARS: dict[str, Any] = {"textcoords": "offset points", "fontweight": "bold", "va": "center"}
BACKGROUND = {"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 0.6}
BESIDE_BARS: dict[str, Any] = {"textcoords": "offset points", "va": "center", "bbox": BACKGROUND}


def ratio(result: Result, ours: Result) -> float:
    """Its time over ours: the median of the ratios of each round. What slows a whole round cancels
    out."""
    return statistics.median(
        a / b for a, b in zip(result.values("seconds"), ours.values("seconds"), strict=True)
    )


def rows(results: Sequence[Result], limits: Mapping[str, Result]) -> list[Sequence[str]]:
    """A row for each engine and way of batching. The first engine is ours; its fastest way counts.

    limits: the matrix products of each precision, whose "done" is FLOP.
    """
    ours = next(iter(fastest(results).values()))
    # Engines that give vectors do several jobs, so their peak memory is that of all of them.
    compared = "cosine" in ours.rounds[0]
    last = "lowest cosine" if compared else "peak MiB"
    table: list[Sequence[str]] = [
        ("engine", "seconds", "spread", "tokens/s", "of matmul rate", "time / ours", last)
    ]
    for result in results:
        share = "-"
        if "flop" in result.rounds[0]:
            share = f"{result.speed('flop') / limits[result.precision].speed():.0%}"
        table.append(
            (
                *timing(result),
                f"{result.speed():,.0f}",
                share,
                f"{ratio(result, ours):.2f}",
                f"{min(result.values('cosine')):.5f}"
                if compared
                else f"{max(result.values('peak_mib')):,.0f}",
            )
        )
    return table


def rates(results: Sequence[Result]) -> list[Sequence[str]]:
    """A row for each engine that takes steps; the first is ours."""
    table: list[Sequence[str]] = [
        ("engine", "seconds", "spread", "tokens/s", "time / ours", "peak MiB")
    ]
    return table + [
        (
            *timing(result),
            f"{result.speed():,.0f}",
            f"{ratio(result, results[0]):.2f}",
            f"{max(result.values('peak_mib')):,.0f}",
        )
        for result in results
    ]


def starts(results: Sequence[Result]) -> list[Sequence[str]]:
    """A row for each program. The first is ours; the last is `import torch` alone."""
    alone = typical(results[-1])
    table: list[Sequence[str]] = [
        ("program", "seconds", "spread", "beyond import torch", "time / ours")
    ]
    for result in results:
        beyond = typical(result) - alone
        table.append((*timing(result), f"{beyond:.2f}", f"{ratio(result, results[0]):.2f}"))
    return table


def files(results: Sequence[Result]) -> list[Sequence[str]]:
    """A row for each file."""
    table: list[Sequence[str]] = [
        ("file", "seconds", "sentences/s", "peak MiB", "more than before")
    ]
    before = results[0].rounds[0]["peak_mib"]
    for result in results:
        seconds, peak = result.rounds[0]["seconds"], result.rounds[0]["peak_mib"]
        table.append(
            (
                result.label,
                f"{seconds:.1f}",
                f"{result.speed():,.0f}",
                f"{peak:,.0f}",
                f"{peak - before:,.0f}",
            )
        )
        before = peak
    return table


def products(results: Mapping[str, Sequence[Result]]) -> list[Sequence[str]]:
    """GFLOP/s: a row for each precision and way, a column for each job."""
    table: list[Sequence[str]] = [("GFLOP/s", *results)]
    for ways in zip(*results.values(), strict=True):
        speeds = [result.speed() for result in ways]
        table.append(
            (
                f"{ways[0].precision}, {ways[0].batch}",
                *(f"{speed / 1e9:,.0f}" if speed else "-" for speed in speeds),
            )
        )
    return table


def rates_of_products(rates: Mapping[str, float]) -> str:
    """Each precision's rate, given in FLOP/s."""
    said = ", ".join(f"{rate / 1e9:,.0f} in {name}" for name, rate in rates.items())
    return f"matrix products in GFLOP/s: {said}"


def latencies(results: Mapping[str, Sequence[Result]]) -> list[Sequence[str]]:
    """Milliseconds from call to vector, the median and the quickest: a row for each engine, a
    column for each text and number of threads."""
    table: list[Sequence[str]] = [("ms: median (best)", *results)]
    for row in zip(*results.values(), strict=True):
        cells = (f"{typical(r) * 1e3:.2f} ({min(r.values('quickest')) * 1e3:.2f})" for r in row)
        table.append((row[0].engine, *cells))
    return table


def timing(result: Result) -> tuple[str, str, str]:
    """Name, median seconds, and the shortest and longest."""
    seconds = result.values("seconds")
    return result.label, f"{typical(result):.2f}", f"{min(seconds):.2f}-{max(seconds):.2f}"


def typical(result: Result) -> float:
    return statistics.median(result.values("seconds"))


def fastest(results: Sequence[Result]) -> dict[str, Result]:
    """Each engine with its fastest way of batching."""
    best: dict[str, Result] = {}
    for result in results:
        if result.engine not in best or typical(result) < typical(best[result.engine]):
            best[result.engine] = result
    return best


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Each engine's time over the first's, which is ours; both with their fastest batching."""
    best = fastest(results)
    ours = next(iter(best.values()))
    return {engine: ratio(result, ours) for engine, result in best.items()}


def summary(panels: Mapping[str, Mapping[str, float]]) -> list[Sequence[str]]:
    """Time over ours: a row for each engine, a column for each corpus."""
    engines = next(iter(panels.values()))
    table: list[Sequence[str]] = [("time / ours", *panels)]
    table += [
        (engine, *(f"{panel[engine]:.2f}" for panel in panels.values())) for engine in engines
    ]
    return table


def plot(panels: Mapping[str, Mapping[str, float]], title: str, about: str, file: Path) -> None:
    """Time over ours as SVG, a group of bars for each corpus and a bar for each engine. Raises
    InputError without matplotlib.

    title: what is timed. about: on what machine, with what.
    """
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as error:
        raise InputError("--plot needs the matplotlib package: pip install matplotlib") from error
    first = next(iter(next(iter(panels.values()))))
    rows = sum(len(panel) + 2 for panel in panels.values())
    with matplotlib.style.context(["default", STYLE]):
        figure = matplotlib.figure.Figure((7, 1 + 0.2 * rows), layout="constrained")
        axes = figure.subplots()
        ticks: dict[int, str] = {}
        top = 0  # where a group begins
        for corpus, panel in panels.items():
            axes.annotate(CORPORA.get(corpus, corpus), (0, top), (0, -3), **ABOVE_BARS)
            for y, (engine, value) in enumerate(panel.items(), start=top + 1):
                is_ours = engine.startswith("minibert")
                # a lower precision, which gives other vectors, is paler
                alpha = (0.95 if is_ours else 0.4) / (1 + engine.endswith(("bfloat16", "int8")))
                color = LIGHT["vermillion"] if is_ours else INK
                axes.barh(y, value, height=0.74, color=color, alpha=alpha)
                axes.annotate(f"{value:.2f}", (value, y), (4, 0), **BESIDE_BARS)
                ticks[y] = engine
            top += len(panel) + 2
        axes.axvline(1, color=INK, linewidth=0.6, zorder=0)
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(top - 1.2, -0.6)
        axes.set_xlabel(f"time / time of {first}: shorter is faster")
        figure.suptitle(f"{title}\n{about}", x=0.01, ha="left")
        svg = as_svg(figure)
    style = f"{palette_css()}svg{{background:var(--paper)}}text{{font-family:sans-serif}}"
    write_text(file, svg.replace(">", f"><style>{style}</style>", 1))
