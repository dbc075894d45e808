"""Write the vectors of texts: JSON lines, or a .npy file with a row for each text."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from minibert.bulk import RowSettings, Windows, json_lines, write_vectors
from minibert.calibration import read_ranges
from minibert.commands.options import (
    add_encoder,
    add_json,
    add_prompt,
    add_texts,
    encoder_options,
    load_encoder,
    tell,
)
from minibert.files import InputError
from minibert.on_ray import Job, encode_corpus
from minibert.quantize import CALIBRATED, KINDS, quantize
from minibert.tables import Columns
from minibert.texts import count_texts, lazy_texts
from minibert.workers import Opening, cores, stream

USAGE = "%(prog)s [TEXT ...] [options]"
EXAMPLES = """\
%(prog)s "A text." "Another."
%(prog)s --input corpus.txt --output vectors.npy
sort corpus.txt | %(prog)s --input - > vectors.jsonl
%(prog)s --input corpus.txt --output vectors.npy --workers 4
%(prog)s --ray --input s3://b/texts --output s3://b/vectors"""


def add_options(command: argparse.ArgumentParser) -> None:
    add_texts(command)
    add_encoder(command)
    add_prompt(command)
    group = command.add_argument_group("output")
    group.add_argument(
        "--output",
        metavar="FILE",
        help="a .npy or .jsonl file (default: JSON lines on standard output)",
    )
    group.add_argument(
        "--resume", action="store_true", help="continue an --output that was interrupted"
    )
    group.add_argument(
        "--quantize",
        choices=KINDS,
        default="float32",
        help="the type of a vector's numbers; binary is one bit each (default %(default)s)",
    )
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="what calibrate wrote, which int8 and uint8 need (default: none)",
    )
    group = command.add_argument_group("several processes, several machines")
    group.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="processes, each with an encoder and its share of the cores (default: this one, whose "
        "threads share the work; with --ray, as many as the cluster's cores or GPUs allow)",
    )
    group.add_argument(
        "--ray",
        action="store_true",
        help="by Ray Data, on the cluster that RAY_ADDRESS names or on this machine: --input is a "
        "file or a folder, of text, .jsonl, .csv, .tsv or .parquet, or a URL such as s3://...; "
        "--output is a folder or URL for Parquet files with id and vector. The same command goes "
        "on where one was interrupted",
    )
    group.add_argument(
        "--column", metavar="NAME", default="text", help="--ray: a table's texts (default text)"
    )
    group.add_argument(
        "--id", metavar="NAME", help="--ray: their ids (default: the file's name and the row)"
    )
    add_json(group, "what is in --output, as JSON; without --output there is JSON in any case")


def run(options: argparse.Namespace) -> None:
    if options.ray:
        run_on_ray(options)
        return
    texts = lazy_texts(options.texts, options.input)
    output = options.output and Path(options.output)
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise InputError(f"--output {output}: the name must end in .npy or .jsonl")
    if output is None and options.resume:
        raise InputError("--resume continues a file: name it with --output")
    settings = row_settings(options)
    total = count_texts(options.texts, options.input)
    compute: Callable[..., Windows] = settings.stream
    if options.workers:
        threads = max(1, cores() // options.workers)
        compute = partial(stream, opening(options, settings, threads), options.workers)
    if output is None:
        for window, vectors in compute(texts, progress=True, total=total):
            rows = quantize(vectors, options.quantize, settings.ranges)
            sys.stdout.writelines(json_lines(window, rows))
        return
    written = write_vectors(
        settings, texts, output, resume=options.resume, total=total, compute=compute
    )
    told(options, settings, written)


def run_on_ray(options: argparse.Namespace) -> None:
    """`run` by Ray Data."""
    if options.texts or options.input in (None, "-") or options.output is None:
        raise InputError("--ray reads --input, a file or a folder, and writes --output, a folder")
    if options.resume:
        raise InputError("--ray goes on where it was interrupted in any case: leave --resume out")
    settings = row_settings(options)
    source, output = (as_url(name) for name in (options.input, options.output))
    job = Job(
        source,
        output,
        opening(options, settings, threads=1),
        Columns(options.column, options.id),
        options.quantize,
        settings.ranges,
    )
    told(options, settings, encode_corpus(settings, job, options.workers))


def row_settings(options: argparse.Namespace) -> RowSettings:
    """The encoder, and what its vectors become."""
    if (options.quantize in CALIBRATED) is (options.calibration is None):
        raise InputError(
            "--quantize int8 or uint8 and --calibration FILE go together: python -m minibert "
            "calibrate makes it"
        )
    encoder = load_encoder(options)
    ranges = read_ranges(options.calibration, encoder) if options.calibration is not None else None
    prompt = encoder.settings.prompt(options.prompt, options.prompt_name)
    return RowSettings(encoder, prompt, options.quantize, ranges)


def opening(options: argparse.Namespace, settings: RowSettings, threads: int) -> Opening:
    """How another process opens the same encoder."""
    model = os.path.abspath(options.model) if os.path.exists(options.model) else options.model
    return Opening(model, encoder_options(options), settings.prompt, threads)


def told(options: argparse.Namespace, settings: RowSettings, written: int) -> None:
    dimensions = settings.encoder.dim()
    tell(
        options,
        f"{written} vectors of {dimensions} {options.quantize} in {options.output}",
        output=options.output,
        vectors=written,
        dimensions=dimensions,
        type=options.quantize,
    )


def as_url(name: str) -> str:
    """A path as it is from any folder; a URL as it is."""
    return name if "://" in name else os.path.abspath(os.path.expanduser(name))


def whole_number(text: str) -> int:
    """A number of processes, at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
