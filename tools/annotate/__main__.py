"""python -m tools.annotate: write the annotated source as a small static site."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from minibert.encoder import SentenceEncoder
from minibert.files import write_text
from minibert.program import run_program
from tools.annotate.example import watch
from tools.annotate.source import ROOT, Source

try:
    from tools.annotate.pages import Site
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package not in ("markdown_it", "pygments"):
        raise
    sys.exit(f"{package} is not installed, which the pages need: pip install -e '.[annotate]'")

PACKAGES = ("minibert", "train")


def read_sources() -> list[Source]:
    """The files that have a page: those of the packages, and the exercises."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [path.relative_to(ROOT).as_posix() for path in paths if path.stat().st_size]
    return [Source.read(name) for name in (*names, "tools/exercises.py")]


def build(model: str = "minilm") -> Site:
    """The site, with the example run through a model. Raises InputError if it cannot be had."""
    sources = read_sources()
    encoder = SentenceEncoder.from_pretrained(model)
    return Site(sources, encoder, watch(sources, encoder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the site. Returns the exit status, as `run_program`."""
    parser = argparse.ArgumentParser(prog="python -m tools.annotate", description=__doc__)
    parser.add_argument("-o", "--output", default="site", help="the folder (default: site)")
    parser.add_argument(
        "--model",
        default="minilm",
        help="a folder, Hub id or minilm: the encoder that reads the example (default: minilm)",
    )
    options = parser.parse_args(arguments)

    def program() -> None:
        pages = build(options.model).pages
        folder = Path(options.output)
        for name, text in pages.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / name, text)
        print(f"{len(pages) - 1} pages; open {folder / 'index.html'}")

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
