"""python -m tools.benchmark encode | train | pretrain | frozen | start | scale | products | gpu:
ours beside the peers.

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
from pathlib import Path

import torch

from minibert.config import BertConfig
from minibert.files import InputError, write_json
from minibert.formats.config import read_config
from minibert.formats.hub import find_model
from tools.benchmark import encode, machine, parts, pretrain, processes, show, train
from tools.benchmark.corpora import SIZES
from tools.benchmark.race import Engine, Result, installed, race, ready
from train.report import table


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
        engines = encode.engines(Path(folder), model, options.threads)
        engines += other_trees(engines, options.against)
        outcome = measure(engines, list(SIZES), options, model)
    for results in outcome.results.values():
        encode.check(results)
    print(table(show.summary(outcome.ratios)))
    return outcome


def run_train(options: argparse.Namespace) -> Outcome:
    """the joint training step, against transformers, padded and grouped in three ways"""
    engines = train.engines(options.data, options.count)
    return measure([*engines, *other_trees(engines, options.against)], ["train"], options)


def run_pretrain(options: argparse.Namespace) -> Outcome:
    """masked words from random weights, against transformers' Trainer"""
    found = pretrain.engines(options.text, options.tokenizer, options.steps, options.precision)
    engines = [*found, *other_trees(found, options.against)]
    with ready(installed(engines), options.threads) as workers:
        results = race(workers, options.rounds, "pretrain")
    print(table(show.rates(results)))
    return Outcome({"pretrain": results}, {"pretrain": show.ratios(results)})


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
        encoding = measure(parts.encoding_engines(Path(folder), model), list(SIZES), options)
    training = measure(
        parts.training_engines(options.data, options.count or 1024), ["train"], options
    )
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


def run_scale(options: argparse.Namespace) -> Outcome:
    """time and peak memory of files of many sentences, encoded to files"""
    results = processes.scale(options.counts, options.threads)
    print(table(show.scale(results)))
    return Outcome({"scale": results})


def run_products(options: argparse.Namespace) -> Outcome:
    """the rate of the float32 products of a MiniLM layer, by each way that PyTorch has to compute
    them"""
    with ready(
        [machine.limit(read_config(find_model("minilm").path / "config.json", BertConfig))],
        options.threads,
    ) as workers:
        results = {job: race(workers, options.rounds, job) for job in machine.PRODUCTS}
    print(table(show.products(results)))
    return Outcome(results)


def run_gpu(options: argparse.Namespace) -> Outcome:
    """encode and train in bfloat16 on a CUDA card, against transformers"""
    if not torch.cuda.is_available():
        raise InputError("gpu measures on a CUDA card, and PyTorch finds none on this machine")
    with tempfile.TemporaryDirectory() as folder:
        model = encode.prepare(Path(folder), options.model, options.data_root, options.count)
        outcome = measure(
            encode.gpu_engines(Path(folder), model), list(SIZES), options, model, device="cuda"
        )
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
    config = read_config((model or find_model("minilm").path) / "config.json", BertConfig)
    limit = machine.limit(config, device, "float32" if device == "cpu" else "bfloat16")
    outcome = Outcome()
    with ready([*installed(engines), limit], options.threads) as workers:
        for job in jobs:
            found = outcome.results[job] = race(workers, options.rounds, job)
            results = [result for result in found if result.engine != limit.name]
            most = max(
                (result for result in found if result.engine == limit.name), key=Result.speed
            )
            outcome.ratios[job] = show.ratios(results)
            rate = f"{most.speed() / 1e9:,.0f} GFLOP/s, by {most.batch}"
            print(f"\n{job}: matrix products run at {rate}")
            print(table(show.rows(results, most)), flush=True)
    print()
    return outcome


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="WHAT")

    def command(
        run: Callable[[argparse.Namespace], Outcome], rounds: int = 3
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(
            run.__name__.removeprefix("run_"), help=run.__doc__, description=run.__doc__
        )
        one.set_defaults(run=run, what=run.__name__.removeprefix("run_"), plot=None)
        one.add_argument(
            "--threads", type=int, default=os.cpu_count() or 1, help="of every engine (all cores)"
        )
        one.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
        if run is not run_scale:
            one.add_argument(
                "--rounds",
                type=int,
                default=rounds,
                help=f"of turns, after one to warm up ({rounds})",
            )
        if run not in (run_scale, run_products):
            one.add_argument(
                "--plot", type=Path, metavar="FILE", help="draw time over ours as a PNG"
            )
        return one

    encoding, gpu, fast_parts = command(run_encode), command(run_gpu), command(run_parts)
    for one in (encoding, gpu):
        one.add_argument(
            "--model",
            choices=("minilm", "base"),
            default="minilm",
            help="base: BERT-base's sizes, seeded",
        )
    for one in (encoding, gpu, fast_parts):
        one.add_argument(
            "--data-root",
            type=Path,
            metavar="FOLDER",
            help="real texts, a folder with snips/ and tweeteval/ (default: made from newsroom)",
        )
        one.add_argument("--count", type=int, help="at most so many texts of a corpus")
    training, frozen = command(run_train), command(run_frozen)
    pretraining = command(run_pretrain)
    pretraining.add_argument("--text", required=True, metavar="FILE", help="plain text")
    pretraining.add_argument(
        "--tokenizer", required=True, metavar="FOLDER", help="that of the vocabulary"
    )
    pretraining.add_argument("--steps", type=int, default=20, help="of a round (20)")
    pretraining.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    for one in (encoding, training, pretraining):
        one.add_argument(
            "--against",
            type=Path,
            metavar="FOLDER",
            action="append",
            default=[],
            help="another checkout of this project, in the same race",
        )
    for one in (training, frozen, gpu, fast_parts):
        one.add_argument(
            "--data", default="newsroom", help="a data folder with a sentence task and a token task"
        )
    for one in (training, frozen):
        one.add_argument("--count", type=int, default=1024, help="training sentences (1024)")
    command(run_start, rounds=5)
    command(run_products)
    command(run_scale).add_argument(
        "--counts",
        type=int,
        nargs="+",
        default=[1000, 10_000, 100_000],
        help="sentences (1000 10000 100000)",
    )
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status is 0, or 2 for what cannot be measured."""
    options = parser().parse_args(arguments)
    facts = machine.facts(options.threads)
    try:
        print(machine.described(facts), flush=True)
        outcome: Outcome = options.run(options)
        if options.plot:
            show.plot(outcome.ratios, options.plot)
        if options.json:
            results = {
                job: [vars(result) for result in found] for job, found in outcome.results.items()
            }
            write_json(options.json, {"what": options.what, "machine": facts, "results": results})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
