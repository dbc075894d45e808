"""Write the vectors of texts: JSON lines, or a .npy file with a row for each text."""

import argparse
import sys
from pathlib import Path

from minibert.bulk import RowSettings, json_lines, write_vectors
from minibert.calibration import read_ranges
from minibert.commands.options import (
    add_encoder,
    add_json,
    add_prompt,
    add_texts,
    load_encoder,
    tell,
)
from minibert.files import InputError
from minibert.quantize import CALIBRATED, KINDS, quantize
from minibert.texts import count_texts, lazy_texts

USAGE = "%(prog)s [TEXT ...] [options]"
EXAMPLES = """\
%(prog)s "A text." "Another."
%(prog)s --input corpus.txt --output vectors.npy
sort corpus.txt | %(prog)s --input - > vectors.jsonl"""


def add_options(command: argparse.ArgumentParser) -> None:
    add_texts(command)
    add_encoder(command)
    add_prompt(command)
    group = command.add_argument_group("output")
    group.add_argument(
        "--output",
        type=Path,
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
    add_json(group, "what is in --output, as JSON; without --output there is JSON in any case")


def run(options: argparse.Namespace) -> None:
    texts = lazy_texts(options.texts, options.input)
    output = options.output
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise InputError(f"--output {output}: the name must end in .npy or .jsonl")
    if output is None and options.resume:
        raise InputError("--resume continues a file: name it with --output")
    if (options.quantize in CALIBRATED) is (options.calibration is None):
        raise InputError(
            "--quantize int8 or uint8 and --calibration FILE go together: python -m minibert "
            "calibrate makes it"
        )
    encoder = load_encoder(options)
    ranges = read_ranges(options.calibration, encoder) if options.calibration is not None else None
    prompt = encoder.settings.prompt(options.prompt, options.prompt_name)
    total = count_texts(options.texts, options.input)
    if output is None:
        for window, vectors in encoder.stream(texts, prompt=prompt, progress=True, total=total):
            sys.stdout.writelines(json_lines(window, quantize(vectors, options.quantize, ranges)))
        return
    settings = RowSettings(encoder, prompt, options.quantize, ranges)
    written = write_vectors(settings, texts, output, resume=options.resume, total=total)
    tell(
        options,
        f"{written} vectors of {encoder.dim()} {options.quantize} in {output}",
        output=str(output),
        vectors=written,
        dimensions=encoder.dim(),
        type=options.quantize,
    )
