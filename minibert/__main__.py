"""python -m minibert encode | similarity | fill-mask | inspect: the library from the command line."""

import argparse
import json
import os
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import numpy as np
from torch import nn

from minibert.encoder import SentenceEncoder
from minibert.files import InputError, read_texts, replacing, sha256
from minibert.heads import POOLINGS
from minibert.hub import BERT_BASE, KNOWN_WEIGHTS, find_model
from minibert.pretraining import fill_masks, load_pretraining
from minibert.tokenizer import Tokenizer, TruncationWarning


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 for input that cannot be used."""
    options = parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # JSON is UTF-8, whatever the terminal's own encoding
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        warnings.simplefilter("always", TruncationWarning)
        try:
            options.command(options)
            sys.stdout.flush()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:  # standard output: a full disk, or a reader, `head` say, that has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again as it ends
            if not isinstance(error, BrokenPipeError):
                print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
                return 2
    return 0


def encode(options: argparse.Namespace) -> None:
    """Write the vectors of texts: JSON lines, or a .npy file with one row a text."""
    texts = read_texts(options.texts, options.input)
    output = options.output
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise InputError(f"--output {output}: the name must end in .npy or .jsonl")
    vectors = load_encoder(options).encode(texts, progress=True)
    if output is None:
        write_json_lines(sys.stdout, texts, vectors)
        return
    with replacing(output) as beside:
        if output.suffix == ".npy":
            with beside.open("wb") as binary:
                np.save(binary, vectors)
        else:
            with beside.open("w", encoding="utf-8") as lines:
                write_json_lines(lines, texts, vectors)
    print(f"{len(vectors)} vectors of {vectors.shape[1]} float32 in {output}", file=sys.stderr)


def similarity(options: argparse.Namespace) -> None:
    """Print the cosine of the vectors of each two texts, the most similar pair first."""
    texts = read_texts(options.texts, options.input)
    if len(texts) < 2:
        raise InputError(f"similarity compares texts, and there is only {len(texts)}: give at least two")
    vectors = load_encoder(options).encode(texts, normalize=True, progress=True)
    cosines = vectors @ vectors.T
    first, second = np.triu_indices(len(texts), k=1)
    for i in np.argsort(-cosines[first, second], kind="stable"):
        a, b, cosine = texts[first[i]], texts[second[i]], float(cosines[first[i], second[i]])
        print(
            json.dumps({"cosine": cosine, "a": a, "b": b}, ensure_ascii=False)
            if options.json
            else f"{cosine:7.4f}  {a}  |  {b}"
        )


def fill_mask(options: argparse.Namespace) -> None:
    """Print the likeliest words for each [MASK] of texts."""
    texts = read_texts(options.texts, options.input)
    folder = find_model(options.model, options.revision).path
    model, _ = load_pretraining(folder)
    config = model.bert.config
    tokenizer = Tokenizer.from_folder(folder, config.vocab_size)
    tokenizer.max_length = min(tokenizer.max_length or config.max_position_embeddings, config.max_position_embeddings)
    filled = [fill_masks(model, tokenizer, text, options.top) for text in texts]
    for text, masks in zip(texts, filled, strict=True):
        if options.json:
            words = [[{"word": word, "probability": probability} for word, probability in mask] for mask in masks]
            print(json.dumps({"text": text, "masks": words}, ensure_ascii=False))
            continue
        print(text)
        for number, mask in enumerate(masks, start=1):
            if len(masks) > 1:
                print(f"  mask {number}")
            for word, probability in mask:
                print(f"{probability:9.4f}  {word}")


def inspect(options: argparse.Namespace) -> None:
    """Print where a model comes from, its sizes, and what became of every tensor of its files."""
    model = find_model(options.model, options.revision)
    whole, report = load_pretraining(model.path)
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
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}
    total = sum(sizes.values())
    print(f"parameters: {total:,}, {total * 4 / 2**20:.1f} MiB as float32;", end=" ")
    print(", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    for entry in report.entries:
        shape = "x".join(map(str, entry.shape))
        print(f"{entry.status:<8}  {entry.dtype:<4}  {shape:>10}  {entry.name}  ->  {entry.note}")
    print(", ".join(f"{count} {status}" for status, count in report.counts.items()))


def load_encoder(options: argparse.Namespace) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(
        options.model, revision=options.revision, pooling=options.pooling, max_length=options.max_length
    )


def write_json_lines(stream: TextIO, texts: list[str], vectors: np.ndarray) -> None:
    for text, vector in zip(texts, vectors, strict=True):
        # nine digits hold a float32 exactly
        line = {"text": text, "vector": [float(f"{x:.9g}") for x in vector]}
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m minibert", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for function in (encode, similarity, fill_mask, inspect):
        name = function.__name__.replace("_", "-")
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function)
        if function is inspect:
            command.add_argument("model", help="a folder, minilm, or a Hub id")
            command.add_argument("--revision", help="a branch, tag or commit on the Hub")
            continue
        command.add_argument("texts", nargs="*", metavar="TEXT", help="a text; none: read --input or standard input")
        default = BERT_BASE if function is fill_mask else "minilm"
        command.add_argument("--model", default=default, help=f"a folder, minilm, or a Hub id; {default} if left out")
        command.add_argument("--revision", help="a branch, tag or commit on the Hub")
        command.add_argument("--input", metavar="FILE", help="texts, one a line; - for standard input")
        if function is fill_mask:
            command.add_argument("--top", type=int, default=5, metavar="K", help="how many words a mask; 5 if left out")
        else:
            command.add_argument("--pooling", choices=POOLINGS, help="in place of what the model's files say")
            command.add_argument("--max-length", type=int, help="the most tokens of a text that are read")
        if function is encode:
            command.add_argument(
                "--output", type=Path, metavar="FILE", help="a .npy or .jsonl file; else JSON lines on standard output"
            )
        else:
            command.add_argument("--json", action="store_true", help="JSON lines")
    return whole


if __name__ == "__main__":
    sys.exit(main())
