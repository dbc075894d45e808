"""python -m minibert encode | calibrate | similarity | fill-mask | inspect | export: the library on
the command line."""

import argparse
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from torch import nn

from minibert.about import ShowAbout
from minibert.bulk import RowSettings, json_lines, write_vectors
from minibert.calibration import calibrate_ranges, read_ranges
from minibert.devices import as_device
from minibert.encoder import SentenceEncoder
from minibert.export import export_onnx
from minibert.files import InputError, escaped, json_text, one_line, sha256
from minibert.formats.hub import BERT_BASE, KNOWN_WEIGHTS, find_model
from minibert.formats.tokenizer import readable
from minibert.heads import POOLINGS
from minibert.precision import PRECISIONS, processor, uses_bfloat16
from minibert.pretraining import BertForPreTraining, fill_masks
from minibert.program import Parser, called_as, run_program, say
from minibert.quantize import CALIBRATED, KINDS, quantize
from minibert.texts import count_lines, lazy_texts, read_texts
from minibert.tokenizer import Tokenizer, TruncationWarning


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status, as `run_program` says."""

    def program() -> None:
        options = parser().parse_args(arguments)
        options.command(options)

    with warnings.catch_warnings():
        warnings.simplefilter("always", TruncationWarning)
        return run_program(program)


def encode(options: argparse.Namespace) -> None:
    """Write the vectors of texts as they are computed: as JSON lines, or a .npy file with a row for
    each text."""
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
    if output is None:
        for window, vectors in encoder.stream(
            texts, prompt=prompt, progress=True, total=count(options)
        ):
            sys.stdout.writelines(json_lines(window, quantize(vectors, options.quantize, ranges)))
        return
    settings = RowSettings(encoder, prompt, options.quantize, ranges)
    written = write_vectors(settings, texts, output, resume=options.resume, total=count(options))
    say(f"{written} vectors of {encoder.dim()} {options.quantize} in {output}")


def calibrate(options: argparse.Namespace) -> None:
    """Write the range of each dimension over the vectors of typical texts, for int8 vectors."""
    encoder = load_encoder(options)
    prompt = encoder.settings.prompt(options.prompt, options.prompt_name)
    texts = lazy_texts(options.texts, options.input)
    used = calibrate_ranges(encoder, prompt, texts, options.output, total=count(options))
    say(f"the ranges of {encoder.dim()} numbers over {used} texts in {options.output}")


def count(options: argparse.Namespace) -> int | None:
    """How many texts there are, if that is known before they are read."""
    if options.texts:
        return len(options.texts)
    return (
        count_lines(Path(options.input))
        if options.input and os.path.isfile(options.input)
        else None
    )


def similarity(options: argparse.Namespace) -> None:
    """Print the cosine of the vectors of each pair of texts, the most similar pair first."""
    texts = read_texts(options.texts, options.input)
    if len(texts) < 2:
        raise InputError(
            f"similarity compares texts, and there is only {len(texts)}: give at least two"
        )
    vectors = load_encoder(options).encode(texts, normalize=True, progress=True)
    cosines = vectors @ vectors.T
    first, second = np.triu_indices(len(texts), k=1)
    for i in np.argsort(-cosines[first, second], kind="stable"):
        a, b, cosine = texts[first[i]], texts[second[i]], float(cosines[first[i], second[i]])
        print(
            json_text({"cosine": cosine, "a": a, "b": b})
            if options.json
            else f"{cosine:7.4f}  {one_line(a)}  |  {one_line(b)}"
        )


def fill_mask(options: argparse.Namespace) -> None:
    """Print the likeliest words for each masked token, such as [MASK], in texts."""
    texts = read_texts(options.texts, options.input)
    folder = find_model(options.model, options.revision).path
    model, _ = BertForPreTraining.from_folder(folder)
    config = model.bert.config
    tokenizer = Tokenizer.from_folder(folder, config.vocab_size)
    tokenizer.max_length = min(tokenizer.max_length or config.most_tokens, config.most_tokens)
    filled = [fill_masks(model, tokenizer, text, options.top) for text in texts]
    for text, masks in zip(texts, filled, strict=True):
        if options.json:
            words = [
                [
                    {"word": readable(token, tokenizer.backend), "probability": probability}
                    for token, probability in mask
                ]
                for mask in masks
            ]
            print(json_text({"text": text, "masks": words}))
            continue
        print(one_line(text))
        for number, mask in enumerate(masks, start=1):
            if len(masks) > 1:
                print(f"  mask {number}")
            for token, probability in mask:
                print(f"{probability:9.4f}  {escaped(readable(token, tokenizer.backend))}")


def inspect(options: argparse.Namespace) -> None:
    """Print where a model comes from, its sizes, and what became of every tensor of its files."""
    model = find_model(options.model, options.revision)
    whole, report = BertForPreTraining.from_folder(model.path)
    bert = whole.bert
    origin = model.source if model.commit is None else f"{model.source}, commit {model.commit}"
    print(f"{model.name}: {model.path} ({origin})")
    for file in report.files:
        digest = sha256(file)
        published = " ".join(KNOWN_WEIGHTS.get(digest, ("unknown",)))
        print(f"{file.name}: {file.stat().st_size:,} bytes, SHA-256 {digest} ({published})")
    print("config:", ", ".join(f"{key}={value}" for key, value in vars(bert.config).items()))
    parts: dict[str, nn.Module | None] = {
        "embeddings": bert.embeddings,
        f"{len(bert.layers)} layers": bert.layers,
        "pooler": bert.pooler,
        "masked-word head": whole.masked_words,
        "next-sentence head": whole.next_sentence,
    }
    sizes = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in parts.items()
        if part is not None
    }
    total = sum(sizes.values())
    print(f"parameters: {total:,}, {total * 4 / 2**20:.1f} MiB as float32;", end=" ")
    print(", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    print(f"processor: {processor()}")
    print(f"precision: float32 if left out; auto chooses {chosen_by_auto()}")
    for entry in report.entries:
        shape = "x".join(map(str, entry.shape))
        name = escaped(entry.name)
        print(f"{entry.status:<8}  {entry.dtype:<4}  {shape:>10}  {name}  ->  {entry.note}")
    print(", ".join(f"{count} {status}" for status, count in report.counts.items()))


def chosen_by_auto() -> str:
    """The precision that --precision auto chooses on this machine."""
    return "bfloat16" if uses_bfloat16("auto", as_device(None)) else "float32"


def export(options: argparse.Namespace) -> None:
    """Write a model as an ONNX graph: token ids in, sentence vectors out."""
    encoder = SentenceEncoder.from_pretrained(
        options.model, revision=options.revision, device="cpu"
    )
    difference = export_onnx(encoder, options.output)
    print(
        f"{options.output}: vectors of {encoder.dim()} numbers, which differ from ours by at most "
        f"{difference:.1e}"
    )


def load_encoder(options: argparse.Namespace) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(
        options.model,
        revision=options.revision,
        pooling=options.pooling,
        max_length=options.max_length,
        truncate_dim=options.truncate_dim,
        precision=options.precision,
    )


def parser() -> argparse.ArgumentParser:
    whole = Parser(prog=called_as("minibert", "minibert"), description=__doc__)
    whole.add_argument("--version", action=ShowAbout, help="versions, device and processor")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for function in (encode, calibrate, similarity, fill_mask, inspect, export):
        name = function.__name__.replace("_", "-")
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function)
        if function in (inspect, export):
            command.add_argument("model", help="a folder, minilm, or a Hub id")
        else:
            add_text_options(command, model=BERT_BASE if function is fill_mask else "minilm")
        command.add_argument("--revision", help="a branch, tag or commit on the Hub")
        if function in (encode, calibrate, similarity):
            add_vector_options(command)
        if function in (encode, calibrate):
            command.add_argument(
                "--prompt", metavar="TEXT", help="put before each text; '' for none"
            )
            command.add_argument(
                "--prompt-name", metavar="NAME", help="the same, one of the model's own prompts"
            )
        if function in (similarity, fill_mask):
            command.add_argument("--json", action="store_true", help="JSON lines")
        if function is fill_mask:
            command.add_argument(
                "--top",
                type=int,
                default=5,
                metavar="K",
                help="how many words for each mask; 5 if left out",
            )
        if function is export:
            command.add_argument(
                "-o", "--output", type=Path, metavar="FILE", required=True, help="an .onnx file"
            )
        if function is calibrate:
            command.add_argument(
                "--output", type=Path, metavar="FILE", required=True, help="the ranges, a JSON file"
            )
        if function is encode:
            add_file_options(command)
    return whole


def add_text_options(command: argparse.ArgumentParser, model: str) -> None:
    command.add_argument(
        "texts", nargs="*", metavar="TEXT", help="a text; none: read --input or standard input"
    )
    command.add_argument("--input", metavar="FILE", help="texts, one a line; - for standard input")
    command.add_argument(
        "--model", default=model, help=f"a folder, minilm, or a Hub id; {model} if left out"
    )


def add_vector_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pooling",
        metavar="WORD",
        help=f"in place of what the files say: {', '.join(POOLINGS)}, or several joined by +",
    )
    command.add_argument(
        "--max-length", type=int, metavar="N", help="the most tokens of a text that are read"
    )
    command.add_argument(
        "--truncate-dim", type=int, metavar="N", help="keep the first N numbers of a vector"
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the matrix products; auto: bfloat16 where the processor computes with it",
    )


def add_file_options(command: argparse.ArgumentParser) -> None:
    output = "a .npy or .jsonl file; else JSON lines on standard output"
    command.add_argument("--output", type=Path, metavar="FILE", help=output)
    command.add_argument(
        "--resume", action="store_true", help="continue an --output that was interrupted"
    )
    command.add_argument(
        "--quantize",
        choices=KINDS,
        default="float32",
        help="vectors in eight bits a number, or in one",
    )
    command.add_argument(
        "--calibration", type=Path, metavar="FILE", help="for int8 and uint8: what calibrate wrote"
    )


if __name__ == "__main__":
    sys.exit(main())
