"""python -m tools.benchmark encode | latency | train | pretrain | frozen | start | files | scale |
cost | products | parts | profile | gpu: ours beside the peers.

All engines do the same work in one run, by turns, with the same texts and as many threads. What
counts are the ratios: absolute times move from machine to machine, so they stand beside the
machine's own rate of matrix products.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import torch

from minibert.config import BertConfig
from minibert.files import InputError, read_text, write_json, write_text
from minibert.formats.config import read_config
from minibert.formats.hub import find_model
from tools.benchmark import (
    encode,
    gpu,
    machine,
    parts,
    pretrain,
    processes,
    profile,
    scale,
    show,
    tables,
    train,
)
from tools.benchmark.corpora import SIZES
from tools.benchmark.cost import constants, read_results
from tools.benchmark.race import Engine, Result, measurable, race, ready
from train.report import table

PRECISIONS = ("float32", "bfloat16", "int8")
MEASURED = Path(__file__).with_name("scale.json")


@dataclass
class Outcome:
    """What was measured at each job, matrix products among it, and each engine's time over ours."""

    results: dict[str, list[Result]] = field(default_factory=dict)
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)


def run_encode(options: argparse.Namespace) -> Outcome:
    """texts to vectors, against sentence-transformers, transformers, onnxruntime, OpenVINO and
    CTranslate2"""
    with tempfile.TemporaryDirectory() as folder:
        model = encode.prepare(Path(folder), options.model, options.data_root, options.count)
        engines = asked_for(encode.engines(Path(folder), model, options.threads), options)
        engines += other_trees(engines, options.against)
        outcome = measure(engines, list(SIZES), options, model)
    for results in outcome.results.values():
        encode.check(results)
    print(table(show.summary(outcome.ratios)))
    return outcome


def run_latency(options: argparse.Namespace) -> Outcome:
    """from call to vector of one short text and one of 100 tokens, by the same engines, with one
    thread and with all"""
    outcome = Outcome()
    for threads in sorted({1, options.threads}):
        with tempfile.TemporaryDirectory() as folder:
            model, jobs = encode.prepare_single(Path(folder))
            engines = asked_for(encode.latency_engines(Path(folder), model, threads), options)
            with ready(measurable(engines), threads) as workers:
                for job in jobs:
                    results = race(workers, options.rounds, job)
                    encode.check(results)
                    name = f"{job}, {threads} thread{'s'[: threads > 1]}"
                    outcome.results[name] = results
                    outcome.ratios[name] = show.ratios(results)
    print(table(show.latencies(outcome.results)))
    print()
    print(table(show.summary(outcome.ratios)))
    return outcome


def run_train(options: argparse.Namespace) -> Outcome:
    """the joint training step, against transformers, padded and grouped in three ways"""
    engines = asked_for(train.engines(options.data, options.count), options)
    return measure([*engines, *other_trees(engines, options.against)], ["train"], options)


def run_pretrain(options: argparse.Namespace) -> Outcome:
    """masked words from random weights, against transformers' Trainer"""
    found = pretrain.engines(options.text, options.tokenizer, options.steps, options.precision)
    engines = [*found, *other_trees(found, options.against)]
    with ready(measurable(engines), options.threads) as workers:
        results = race(workers, options.rounds, "pretrain")
    print(table(show.rates(results)))
    return Outcome({"pretrain": results}, {"pretrain": show.ratios(results)})


def asked_for(engines: Sequence[Engine], options: argparse.Namespace) -> list[Engine]:
    """The engines that are asked for; the first one is always, as all others are compared to it.

    Raises InputError for a name that none has.
    """
    names = list(dict.fromkeys(engine.name for engine in engines))
    for name in options.only or ():
        if name not in names:
            raise InputError(f"--only {name}: the engines are {'; '.join(names)}")
    return [
        engine
        for engine in engines
        if engine is engines[0]
        or (engine.name in (options.only or names) and engine.precision in options.precision)
    ]


def other_trees(engines: Sequence[Engine], trees: Sequence[Path]) -> list[Engine]:
    """Our own engines, as other checkouts of this project have them."""
    return [
        replace(engine, name=f"{engine.name}, {tree.name}", tree=str(tree.resolve()))
        for tree in trees
        for engine in engines
        if engine.name.startswith("minibert")
    ]


def run_parts(options: argparse.Namespace) -> Outcome:
    """encoding and training of ours without each part of minibert/fast, over ours with all"""
    with tempfile.TemporaryDirectory() as folder:
        model = encode.prepare(Path(folder), "minilm", options.data_root, options.count)
        engines = parts.encoding_engines(Path(folder), model, options.precision)
        encoding = measure(engines, list(SIZES), options)
    engines = parts.training_engines(options.data, options.count or 1024, options.precision)
    training = measure(engines, ["train"], options)
    return Outcome(encoding.results | training.results, encoding.ratios | training.ratios)


def run_frozen(options: argparse.Namespace) -> Outcome:
    """five epochs of ours with none, half and all of the backbone frozen, with and without the
    prefix cache"""
    return measure(train.frozen_engines(options.data, options.count), ["frozen"], options)


def run_start(options: argparse.Namespace) -> Outcome:
    """from a process's start to its first vector, against sentence-transformers and transformers"""
    results = processes.starts(options.rounds, options.threads)
    print(table(show.starts(results)))
    return Outcome({"start": results}, {"start to first vector": show.ratios(results)})


def run_files(options: argparse.Namespace) -> Outcome:
    """time and peak memory of files of many sentences, encoded to files"""
    results = processes.files(options.counts, options.threads)
    print(table(show.files(results)))
    return Outcome({"files": results})


def run_scale(options: argparse.Namespace) -> Outcome:
    """training and encoding in several processes of one thread, beside what the model of SCALE.md
    says of them"""
    cores, counts = os.cpu_count() or 1, options.processes
    if counts[0] != 1 or not any(1 < count <= cores for count in counts):
        raise InputError(
            f"--processes {' '.join(map(str, counts))}: the first must be 1, and another from 2 to "
            f"the number of cores, which is {cores} here"
        )
    results = scale.measure(counts, options.rounds, options.count)
    known = constants(results, cores)
    print(tables.markdown(tables.measured_beside_model(results, known)))
    return Outcome(results)


def run_products(options: argparse.Namespace) -> Outcome:
    """the rate of a MiniLM layer's products in each precision, by each way that PyTorch has to
    compute them"""
    with ready(measurable(machine.limits(minilm())), options.threads) as workers:
        results = {job: race(workers, options.rounds, job) for job in machine.PRODUCTS}
    print(table(show.products(results)))
    return Outcome(results)


def run_profile(options: argparse.Namespace) -> Outcome:
    """what the time of encoding is spent on, for texts of each length, by PyTorch's profiler; one
    thread"""
    print(table(profile.shares(options.lengths, options.precision)))
    return Outcome()


def run_gpu(options: argparse.Namespace) -> Outcome:
    """encode and train in bfloat16 on a CUDA card, against transformers"""
    if not torch.cuda.is_available():
        raise InputError("gpu measures on a CUDA card, and PyTorch finds none on this machine")
    with tempfile.TemporaryDirectory() as folder:
        model = encode.prepare(Path(folder), options.model, options.data_root, options.count)
        engines = asked_for(gpu.engines(Path(folder), model), options)
        outcome = measure(engines, list(SIZES), options, model, device="cuda")
    engines = train.engines(options.data, options.count or 4096, device="cuda")
    trained = measure(engines, ["train"], options, device="cuda")
    return Outcome(outcome.results | trained.results, outcome.ratios | trained.ratios)


def measure(
    engines: Sequence[Engine],
    jobs: Sequence[str],
    options: argparse.Namespace,
    model: Path | None = None,
    device: str = "cpu",
) -> Outcome:
    """Race engines, ours first, at one job after the other, with a table for each.

    model: its folder, if it is not MiniLM.
    """
    config = read_config(model / "config.json", BertConfig) if model else minilm()
    precisions = {engine.precision for engine in engines}
    limits = [one for one in machine.limits(config, device) if one.precision in precisions]
    outcome = Outcome()
    with ready(measurable([*engines, *limits]), options.threads) as workers:
        for job in jobs:
            found = outcome.results[job] = race(workers, options.rounds, job)
            products = [result for result in found if result.engine.startswith(limits[0].name)]
            results = [result for result in found if result not in products]
            most = machine.best(products)
            outcome.ratios[job] = show.ratios(results)
            rates = {precision: result.speed() for precision, result in most.items()}
            print(f"\n{job}: {show.rates_of_products(rates)}")
            print(table(show.rows(results, most)), flush=True)
    print()
    return outcome


def minilm() -> BertConfig:
    return read_config(find_model("minilm").path / "config.json", BertConfig)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="WHAT")

    def command(
        run: Callable[[argparse.Namespace], Outcome], rounds: int = 3
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(
            run.__name__.removeprefix("run_"), help=run.__doc__, description=run.__doc__
        )
        one.set_defaults(run=run, what=run.__name__.removeprefix("run_"), plot=None, threads=1)
        if run is not run_scale:
            one.add_argument(
                "--threads",
                type=int,
                default=os.cpu_count() or 1,
                help="of every engine (all cores)",
            )
        one.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
        if run not in (run_files, run_profile):
            one.add_argument(
                "--rounds",
                type=int,
                default=rounds,
                help=f"of turns, after one to warm up ({rounds})",
            )
        if run not in (run_files, run_scale, run_products, run_profile):
            one.add_argument("--plot", type=Path, metavar="FILE", help="draw time over ours as SVG")
        return one

    encoding, card, fast_parts = command(run_encode), command(run_gpu), command(run_parts)
    latency, training, frozen = command(run_latency), command(run_train), command(run_frozen)
    for one in (encoding, card):
        one.add_argument(
            "--model",
            choices=("minilm", "base"),
            default="minilm",
            help="base: BERT-base's sizes, seeded",
        )
    for one in (encoding, card, fast_parts):
        one.add_argument(
            "--data-root",
            type=Path,
            metavar="FOLDER",
            help="real texts, a folder with snips/ and tweeteval/ (default: made from newsroom)",
        )
        one.add_argument("--count", type=int, help="at most so many texts of a corpus")
    for one in (encoding, latency, training):
        one.add_argument(
            "--precision",
            choices=PRECISIONS,
            nargs="+",
            default=PRECISIONS,
            help="of the engines (all); ours in float32 is always measured",
        )
    for one in (encoding, latency, training, card):
        one.add_argument("--only", nargs="+", metavar="NAME", help="engines besides the first")
    card.set_defaults(precision=PRECISIONS)
    fast_parts.add_argument("--precision", choices=PRECISIONS[:2], default="float32")
    pretraining = command(run_pretrain)
    pretraining.add_argument("--text", required=True, metavar="FILE", help="plain text")
    pretraining.add_argument(
        "--tokenizer", required=True, metavar="FOLDER", help="that of the vocabulary"
    )
    pretraining.add_argument("--steps", type=int, default=20, help="of a round (20)")
    pretraining.add_argument("--precision", choices=PRECISIONS[:2], default="float32")
    for one in (encoding, training, pretraining):
        one.add_argument(
            "--against",
            type=Path,
            metavar="FOLDER",
            action="append",
            default=[],
            help="another checkout of this project, in the same race",
        )
    for one in (training, frozen, card, fast_parts):
        one.add_argument(
            "--data", default="newsroom", help="a data folder with a sentence task and a token task"
        )
    for one in (training, frozen):
        one.add_argument("--count", type=int, default=1024, help="training sentences (1024)")
    command(run_start, rounds=5)
    command(run_products)
    profiling = command(run_profile)
    profiling.add_argument("--precision", choices=PRECISIONS[:2], default="float32")
    profiling.add_argument(
        "--lengths", type=int, nargs="+", default=[12, 29, 62, 200], help="tokens of a text"
    )
    command(run_files).add_argument(
        "--counts",
        type=int,
        nargs="+",
        default=[1000, 10_000, 100_000],
        help="sentences (1000 10000 100000)",
    )
    scaling = command(run_scale)
    scaling.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="the first is 1 (1 2 4)"
    )
    scaling.add_argument("--count", type=int, default=4096, help="sentences to encode (4096)")
    costs = commands.add_parser("cost", help=print_cost.__doc__, description=print_cost.__doc__)
    costs.set_defaults(run=print_cost)
    costs.add_argument(
        "--measured", type=Path, default=MEASURED, metavar="FILE", help="what scale --json wrote"
    )
    costs.add_argument("--into", type=Path, metavar="FILE.md", help="put the tables there, too")
    return whole


def measured(options: argparse.Namespace) -> None:
    """Measure on this machine; print, and write what is asked for."""
    facts = machine.facts(options.threads)
    print(machine.described(facts), flush=True)
    if options.run not in (run_products, run_profile, run_gpu):
        facts["rates"] = machine.rates(minilm(), options.threads)
        print(f"{show.rates_of_products(facts['rates'])}\n", flush=True)
    outcome: Outcome = options.run(options)
    if options.plot:
        title = str(options.run.__doc__).partition(",")[0]
        show.plot(outcome.ratios, title, machine.in_short(facts), options.plot)
    if options.json:
        results = {
            job: [vars(result) for result in found] for job, found in outcome.results.items()
        }
        about = {"what": options.what, "date": str(date.today()), "machine": facts}
        write_json(options.json, about | {"results": results})


def print_cost(options: argparse.Namespace) -> None:
    """time and cost of work that is too large to try, from what scale measured: the tables of
    SCALE.md"""
    cores, results = read_results(options.measured)
    found = tables.document(results, constants(results, cores))
    for title, rows in found.items():
        print(f"{title}\n\n{tables.markdown(rows)}\n")
    if options.into:
        write_text(options.into, tables.put_into(read_text(options.into), found))


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status is 0, or 2 for what cannot be measured."""
    options = parser().parse_args(arguments)
    try:
        (print_cost if options.run is print_cost else measured)(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
