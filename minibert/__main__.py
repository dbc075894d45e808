"""python -m minibert COMMAND: the library on the command line.

Texts are read from arguments, from a file, or from standard input ("-"). Results go to standard
output: for people, coloured in a terminal unless NO_COLOR is set; for programs, with --json, an
object a line. All else (progress, warnings, errors, what was written) goes to standard error. What
the exit status means, `run_program` says, and so does --help.
"""

import argparse
import sys
import warnings
from types import ModuleType

from minibert.about import ShowAbout
from minibert.commands import calibrate, encode, export, fill_mask, inspect, search, similarity
from minibert.program import Parser, called_as, run_program
from minibert.tokens import TruncationWarning
from minibert.usage import usage

COMMANDS = {
    "encode": encode,
    "similarity": similarity,
    "search": search,
    "fill-mask": fill_mask,
    "inspect": inspect,
    "calibrate": calibrate,
    "export": export,
}
EXAMPLES = """\
%(prog)s similarity "A cat sleeps." "A kitten rests." "Stocks fell."
%(prog)s search "how do I get a refund" --input corpus.txt --top 5
%(prog)s encode --input corpus.txt --output vectors.npy
%(prog)s inspect minilm
%(prog)s search --help"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status, as `run_program` says."""

    def program() -> None:
        options = parser().parse_args(arguments)
        options.run(options)

    with warnings.catch_warnings():
        warnings.simplefilter("always", TruncationWarning)
        return run_program(program)


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    whole = Parser(prog=called_as("minibert", "minibert"), **usage(__doc__, EXAMPLES))
    whole.add_argument("--version", action=ShowAbout, help="versions, device and processor")
    commands = whole.add_subparsers(
        required=True,
        title="commands",
        description="\n".join(f"{name:<10}  {purpose(COMMANDS[name])}" for name in COMMANDS),
        metavar="COMMAND",
        help="one of these; COMMAND --help tells its options",
    )
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, usage=module.USAGE, **usage(module.__doc__, module.EXAMPLES)
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return whole


def purpose(module: ModuleType) -> str:
    """What a command does, in a few words."""
    return " ".join((module.__doc__ or "").split()).partition(".")[0].partition(":")[0]


if __name__ == "__main__":
    sys.exit(main())
