"""The options that several commands have, and what they mean."""

import argparse
from typing import Any

from minibert.encoder import SentenceEncoder
from minibert.files import json_text
from minibert.heads import POOLINGS
from minibert.precision import PRECISIONS
from minibert.program import say


def add_texts(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("texts")
    group.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="a text; none, or -: they are read from --input",
    )
    group.add_argument(
        "--input",
        metavar="FILE",
        help="texts, one a line; - for standard input (default: standard input)",
    )


def add_model(command: argparse.ArgumentParser, default: str) -> argparse._ArgumentGroup:
    group = command.add_argument_group("model")
    group.add_argument(
        "--model", default=default, help="a folder, minilm, or a Hub id (default %(default)s)"
    )
    add_revision(group)
    return group


def add_model_argument(command: argparse.ArgumentParser) -> None:
    """The model of a command that is about models."""
    group = command.add_argument_group("model")
    group.add_argument("model", help="a folder, minilm, or a Hub id")
    add_revision(group)


def add_revision(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--revision", help="a branch, tag or commit on the Hub (default: the main branch)"
    )


def add_encoder(command: argparse.ArgumentParser) -> None:
    """The model, and how it makes vectors."""
    group = add_model(command, "minilm")
    group.add_argument(
        "--pooling",
        metavar="WORD",
        help=f"{', '.join(POOLINGS)}, or several joined by + (default: as the model's files say)",
    )
    group.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="the most tokens of a text that are read (default: as the model's files say)",
    )
    group.add_argument(
        "--truncate-dim",
        type=int,
        metavar="N",
        help="keep the first N numbers of a vector (default: as the model's files say, or all)",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the matrix products; auto is bfloat16 where the processor computes with it "
        "(default %(default)s)",
    )


def add_prompt(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("prompt, which is put before each text")
    group.add_argument("--prompt", metavar="TEXT", help="'' for none (default: the model's own)")
    group.add_argument(
        "--prompt-name", metavar="NAME", help="one of the model's own (default: --prompt)"
    )


def add_top(group: argparse._ActionsContainer, default: int, what: str) -> None:
    group.add_argument(
        "--top", type=int, default=default, metavar="K", help=f"{what} (default %(default)s)"
    )


def add_json(group: argparse._ActionsContainer, what: str) -> None:
    group.add_argument("--json", action="store_true", help=what)


ENCODER = ("revision", "pooling", "max_length", "truncate_dim", "precision")


def load_encoder(options: argparse.Namespace) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(options.model, **encoder_options(options))


def encoder_options(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked for of the encoder, besides its name."""
    return {name: getattr(options, name) for name in ENCODER}


def print_json(record: Any) -> None:
    """One line of JSON on standard output."""
    print(json_text(record))


def tell(options: argparse.Namespace, sentence: str, **facts: Any) -> None:
    """Say what was written: as a line on standard error, or with --json as one on standard
    output."""
    if options.json:
        print_json(facts)
    else:
        say(sentence)
