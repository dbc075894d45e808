"""The options of python -m train.predict."""

import sys

from minibert.program import Parser
from minibert.usage import usage

PURPOSE = "What the tasks of a finished run, or a model with a fine-tuned head, say of texts."
EXAMPLES = """\
%(prog)s runs/newsroom "Apple opens a laboratory in Nairobi"
%(prog)s runs/tweets --input tweets.txt --json
%(prog)s --pair "It rains." "It is wet." --model path/to/model"""


def parser() -> Parser:
    """The options."""
    made = Parser(
        prog="python -m train.predict",
        usage="%(prog)s (RUN | --model MODEL) [TEXT ...] [options]",
        **usage(PURPOSE, EXAMPLES),
    )
    made.add_argument(
        "names",
        nargs="*",
        metavar="RUN TEXT",
        help="the folder of a finished run (but not after --model), and texts, if there are no "
        "other inputs; a tab separates a pair",
    )
    group = made.add_argument_group("in place of a run")
    group.add_argument("--model", help="a folder or Hub id with a fine-tuned head (default: RUN)")
    group.add_argument(
        "--revision", help="a branch, tag or commit on the Hub (default: the main branch)"
    )
    group = made.add_argument_group("inputs")
    group.add_argument(
        "--input",
        metavar="FILE",
        help="texts, one a line, or JSON lines, if its name ends in .jsonl; - for standard input "
        "(default: the texts given, or else standard input)",
    )
    group.add_argument(
        "--json-lines", action="store_true", help="the input is JSON lines, whatever its name"
    )
    group.add_argument(
        "--pair",
        nargs=2,
        action="append",
        metavar="TEXT",
        help="two texts; may be repeated (default: none)",
    )
    group.add_argument(
        "--question", metavar="TEXT", help="a question about --context (default: none)"
    )
    group.add_argument("--context", metavar="TEXT", help="where the answer stands (default: none)")
    group.add_argument(
        "--choice",
        action="append",
        default=[],
        metavar="TEXT",
        help="what may follow each text; repeated for each choice (default: none)",
    )
    group.add_argument(
        "--words", action="store_true", help="texts are split into words already, by spaces"
    )
    group.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="read texts over the limit in windows that overlap by N tokens (default: as in "
        "training)",
    )
    group = made.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print JSON lines")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--top",
        type=int,
        metavar="K",
        help="show the probabilities of the K likeliest classes (default: of none; with --json, "
        "of all)",
    )
    which.add_argument(
        "--all",
        dest="top",
        action="store_const",
        const=sys.maxsize,
        help="show the probabilities of all classes",
    )
    return made
