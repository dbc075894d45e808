"""What `cost` says, as the tables of SCALE.md."""

import re
from collections.abc import Mapping, Sequence

from minibert.files import InputError
from tools.benchmark.cost import (
    BATCHES,
    BERT_BASE,
    CLOUD_CORES,
    EXAMPLES,
    FLOAT32,
    GPU_CORES,
    HOUR,
    MODELS,
    NAMES,
    OTHERS_FLOP,
    OTHERS_HOURS,
    PEAK,
    TOKENS,
    UTILISATION,
    Constants,
    Prediction,
    all_reduce,
    cpus,
    embedding,
    encode_seconds,
    fine_tuning,
    gpus,
    num_parameters,
    pretraining,
    quickest,
    step_seconds,
    utilisation,
)
from tools.benchmark.machine import useful_flop
from tools.benchmark.race import Result

Rows = list[Sequence[str]]


def markdown(rows: Rows) -> str:
    """A table in Markdown; the first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def put_into(text: str, found: Mapping[str, Rows]) -> str:
    """A document with these tables, each below the line "Table: TITLE", in place of what is there.

    Raises InputError if a line is missing.
    """
    for title, rows in found.items():
        below = re.compile(rf"(?<=^Table: {re.escape(title)}\n\n)(\|.*\n)*\n?", re.MULTILINE)
        new, count = below.subn(f"{markdown(rows)}\n\n", text, count=1)
        if not count:
            raise InputError(f'the document has no line "Table: {title}"')
        text = new
    return text


def number(value: float) -> str:
    """With three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def measured_beside_model(results: Mapping[str, Sequence[Result]], known: Constants) -> Rows:
    """Each measured time, what the model says, and by how much the model is off."""
    rows: list[tuple[str, float, float]] = []
    for result in results["training"]:
        count = int(result.rounds[0]["processes"])
        rows.append((f"a step, {result.engine}", quickest(result), step_seconds(known, count)))
    for result in results["encoding"][1:]:
        count, size = (int(result.rounds[0][key]) for key in ("processes", "done"))
        name = f"{size:,} sentences, {result.engine}"
        rows.append((name, quickest(result), encode_seconds(known, count, size)))
    for result in results["all_reduce"]:
        count, size = (int(result.rounds[0][key]) for key in ("processes", "bytes"))
        turns = max(1, count / known.cores)
        model = turns * all_reduce(count, size, known.latency, known.bandwidth)
        rows.append((f"gradients added up, {result.label}", quickest(result), model))
    return [
        ("seconds", "measured", "model", "error"),
        *((name, f"{m:.3g}", f"{p:.3g}", f"{p / m - 1:+.0%}") for name, m, p in rows),
    ]


def measured_constants(known: Constants) -> Rows:
    """The constants of the model, as people read them."""
    return [
        ("constant", "value"),
        *(
            (f"{name}: sentences a second", f"{1 / seconds:,.0f}")
            for name, seconds in known.stages.items()
        ),
        ("start of a process, with the model: seconds", f"{known.start:.2f}"),
        ("forward and backward pass of a step: seconds", f"{known.compute:.3f}"),
        ("the same, a core: GFLOP/s", f"{known.train_rate / 1e9:.0f}"),
        ("clipping and optimizer: seconds", f"{known.update:.3f}"),
        ("the same, bytes read and written: GB/s", f"{known.update_rate / 1e9:.1f}"),
        ("an example in memory: bytes", f"{known.example_bytes:,.0f}"),
        ("gradients of a step: MB", f"{known.gradient_bytes / 1e6:.1f}"),
        *(
            (f"imbalance of {count} processes", f"{factor:.3f}")
            for count, factor in known.imbalance.items()
            if count > 1
        ),
        ("adding gradients up: latency, microseconds", f"{known.latency * 1e6:.0f}"),
        ("adding gradients up: bandwidth, GB/s", f"{known.bandwidth / 1e9:.2f}"),
    ]


def predictions(found: Sequence[Prediction]) -> Rows:
    """The hours that each resource works, of the whole, its cost, and what is exhausted first."""
    resources = list(found[0].work)
    return [
        ("machine", *resources, "hours", "dollars", "exhausted first"),
        *(
            (
                one.machine.name,
                *(number(one.work[name] / HOUR) for name in resources),
                number(one.seconds / HOUR),
                "-" if one.cost is None else f"{one.cost:,.0f}",
                one.exhausted,
            )
            for one in found
        ),
    ]


def document(results: Mapping[str, Sequence[Result]], known: Constants) -> dict[str, Rows]:
    """The tables of SCALE.md: title -> rows."""
    here, cloud = (
        [cpus(known, n, precision=p) for p in known.precisions] for n in (known.cores, CLOUD_CORES)
    )
    cards = [gpus(1), gpus(8)]
    fed = [gpus(1, GPU_CORES), gpus(8, GPU_CORES)]
    tables: dict[str, Rows] = {
        "constants": measured_constants(known),
        "measured and by the model": measured_beside_model(results, known),
        "utilisation that others reached": [
            ("GPU", "peak, TFLOP/s", "FLOP", "hours", "utilisation"),
            ("8 A100", "312", f"{OTHERS_FLOP:.3g}", f"{OTHERS_HOURS}", f"{utilisation():.0%}"),
        ],
    }
    for model in MODELS:
        found = [embedding(known, machine, model) for machine in [*here, *cloud, *cards, *fed]]
        tables[f"one billion sentences by {NAMES[model]}"] = predictions(found)
    machines = [here[0], cloud[0], cpus(known, CLOUD_CORES, hosts=8), *cards]
    tables["pre-training BERT-base"] = predictions(
        [pretraining(known, machine) for machine in machines]
    )
    for batch in BATCHES:
        tables[f"fine-tuning BERT-base on {EXAMPLES:,} sentences, batches of {batch:,}"] = (
            predictions([fine_tuning(known, machine, batch) for machine in machines])
        )
    tables["cores that feed an H100"] = feeding(known)
    tables["vectors of one billion sentences"] = sizes()
    tables["memory of each process that fine-tunes"] = memory(known)
    return tables


def feeding(known: Constants) -> Rows:
    """How many cores read, tokenize and write what one H100 embeds."""
    each = 1 / known.handling
    rows = []
    for model, config in MODELS.items():
        card = PEAK * UTILISATION / useful_flop(config, [TOKENS])
        rows.append((NAMES[model], f"{card:,.0f}", f"{each:,.0f}", f"{card / each:.1f}"))
    return [("model", "sentences/s of an H100", "sentences/s of a core", "cores"), *rows]


def sizes() -> Rows:
    """Gigabytes of the vectors, by the type of their numbers."""
    types = {"float32": 4.0, "int8": 1.0, "binary": 1 / 8}
    return [
        ("gigabytes", *types),
        *(
            (NAMES[model], *(f"{config.hidden_size * size:,.0f}" for size in types.values()))
            for model, config in MODELS.items()
        ),
    ]


def memory(known: Constants) -> Rows:
    """Gigabytes that each process holds: the examples, and five numbers for each parameter."""
    parameters = num_parameters(BERT_BASE)
    held = {
        f"{EXAMPLES:,} examples": EXAMPLES * known.example_bytes,
        "BERT-base: weights, gradients, two moments, the best weights": 5 * FLOAT32 * parameters,
    }
    return [("what", "gigabytes"), *((name, f"{size / 1e9:,.1f}") for name, size in held.items())]
