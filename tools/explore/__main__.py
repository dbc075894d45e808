"""python -m tools.explore TEXT ... -o page.html: a page that shows what a model makes of texts.

It shows their word pieces, the attention of every layer and head, how each token's vector moves
through the layers, the words that the model expects, what a run's tasks say, and how similar the
texts are. The page is one file, and needs no network.
"""

import argparse
import sys
from pathlib import Path

from minibert.files import InputError, write_text
from minibert.program import run_program
from minibert.texts import read_texts
from tools.explore.compute import Given, explore, open_model
from tools.explore.page import write_page


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tools.explore", description=__doc__)
    made.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="a text; a tab separates a pair; none: read --input or standard input",
    )
    made.add_argument("--input", metavar="FILE", help="texts, one a line; - for standard input")
    made.add_argument(
        "--pair",
        nargs=2,
        action="append",
        default=[],
        metavar="TEXT",
        help="two texts in one sequence; may be repeated",
    )
    made.add_argument(
        "--model",
        default="minilm",
        help="a finished run's folder, a model's folder, minilm, or a Hub id; minilm if left out",
    )
    made.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the page")
    return made


def read_given(options: argparse.Namespace) -> list[Given]:
    """The texts and pairs that the options give. Raises InputError if there is none."""
    is_read = options.texts or options.input is not None or not options.pair
    texts = read_texts(options.texts, options.input) if is_read else []
    given: list[Given] = []
    for text in texts:
        first, tab, second = text.partition("\t")
        given.append((first, second) if tab else text)
    given += [(first, second) for first, second in options.pair]
    if not given:
        raise InputError("there is no text to explore: give one, or a pair by --pair")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Write the page. Returns the exit status, as `run_program`."""
    options = parser().parse_args(arguments)

    def program() -> None:
        given = read_given(options)
        page = write_page(explore(open_model(options.model), given))
        write_text(options.output, page)
        print(f"{options.output}: {len(page) / 2**10:,.0f} KiB; open it in a browser")

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
