"""The measurements as tables, and as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from minibert.files import InputError, replacing
from tools.benchmark.race import Result

OURS, THEIRS = "#d9480f", "#adb5bd"
PALER = {OURS: "#f7b48f", THEIRS: "#dee2e6"}  # of a lower precision, which gives other vectors


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


def scale(results: Sequence[Result]) -> list[Sequence[str]]:
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


def color(engine: str, first: str) -> str:
    full = OURS if engine == first or engine.startswith("minibert") else THEIRS
    return PALER[full] if engine.endswith(("bfloat16", "int8")) else full


def plot(panels: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Time over ours, a bar for each engine and a panel for each corpus. Raises InputError without
    matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("--plot needs the matplotlib package: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    engines = list(next(iter(panels.values())))
    colors = [color(engine, engines[0]) for engine in engines]
    size = (3 + 2.6 * len(panels), 1.1 + 0.34 * len(engines))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for each, (name, panel) in zip(axes[0], panels.items(), strict=True):
        values = [panel[engine] for engine in engines]
        bars = each.barh(engines, values, color=colors, height=0.7)
        each.axvline(values[0], color=OURS, linewidth=0.8, alpha=0.5, zorder=0)
        numbers = each.bar_label(bars, [f"{value:.2f}" for value in values], padding=4, fontsize=9)
        for number in numbers:
            number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        each.set_title(name, fontsize=11, loc="left")
        each.set_xlim(0, max(values) * 1.18)
        each.set_xticks([])
        each.tick_params(axis="y", length=0, labelsize=10)
        each.spines[:].set_visible(False)
    axes[0][0].invert_yaxis()
    for label in axes[0][0].get_yticklabels()[:1]:
        label.set(color=OURS, fontweight="bold")
    figure.suptitle(
        f"Time relative to {engines[0]} (shorter is faster)", fontsize=12, x=0.01, ha="left"
    )
    with replacing(file) as beside:
        figure.savefig(beside, format="png", dpi=150, facecolor="white")
    pyplot.close(figure)
