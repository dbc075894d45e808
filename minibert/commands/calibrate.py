"""Write the range of each dimension, for encode --quantize int8. It is the range over the vectors
of some typical texts."""

import argparse
from pathlib import Path

from minibert.calibration import calibrate_ranges
from minibert.commands.options import (
    add_encoder,
    add_json,
    add_prompt,
    add_texts,
    load_encoder,
    tell,
)
from minibert.texts import count_texts, lazy_texts

USAGE = "%(prog)s [TEXT ...] --output FILE [options]"
EXAMPLES = "%(prog)s --input typical.txt --output ranges.json"


def add_options(command: argparse.ArgumentParser) -> None:
    add_texts(command)
    add_encoder(command)
    add_prompt(command)
    group = command.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, metavar="FILE", required=True, help="a JSON file (required)"
    )
    add_json(group, "what is in --output, as JSON")


def run(options: argparse.Namespace) -> None:
    encoder = load_encoder(options)
    prompt = encoder.settings.prompt(options.prompt, options.prompt_name)
    texts = lazy_texts(options.texts, options.input)
    total = count_texts(options.texts, options.input)
    used = calibrate_ranges(encoder, prompt, texts, options.output, total=total)
    tell(
        options,
        f"the ranges of {encoder.dim()} numbers over {used} texts in {options.output}",
        output=str(options.output),
        texts=used,
        dimensions=encoder.dim(),
    )
