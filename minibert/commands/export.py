"""Write a model as an ONNX graph: token ids in, sentence vectors out."""

import argparse
from pathlib import Path

from minibert.commands.options import add_json, add_model_argument, tell
from minibert.encoder import SentenceEncoder
from minibert.export import export_onnx

USAGE = "%(prog)s MODEL -o FILE.onnx [options]"
EXAMPLES = "%(prog)s minilm -o minilm.onnx"


def add_options(command: argparse.ArgumentParser) -> None:
    add_model_argument(command)
    group = command.add_argument_group("output")
    group.add_argument(
        "-o", "--output", type=Path, metavar="FILE", required=True, help="an .onnx file (required)"
    )
    add_json(group, "what is in --output, as JSON")


def run(options: argparse.Namespace) -> None:
    encoder = SentenceEncoder.from_pretrained(
        options.model, revision=options.revision, device="cpu"
    )
    difference = export_onnx(encoder, options.output)
    tell(
        options,
        f"{options.output}: vectors of {encoder.dim()} numbers, which differ from ours by at most "
        f"{difference:.1e}",
        output=str(options.output),
        dimensions=encoder.dim(),
        largest_difference=difference,
    )
