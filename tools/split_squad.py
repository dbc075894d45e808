"""python -m tools.split_squad FILE COUNT FOLDER: a file in SQuAD's JSON as a data folder.

The first COUNT articles become FOLDER/train.json, and the others FOLDER/test.json: no paragraph is
in both.
"""

import argparse
import sys
from pathlib import Path

from minibert.files import InputError, read_object, write_json
from minibert.program import run_program


def split(file: Path, count: int, folder: Path) -> None:
    """Write both splits. Raises InputError if one would be empty."""
    content = read_object(file)
    articles = content.get("data", [])
    if not 0 < count < len(articles):
        raise InputError(
            f"{file} has {len(articles)} articles: {count} of them leave no two splits"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", articles[:count]), ("test", articles[count:])):
        write_json(folder / f"{name}.json", content | {"data": part})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.split_squad", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("count", type=int, metavar="COUNT")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    return run_program(lambda: split(options.file, options.count, options.folder))


if __name__ == "__main__":
    sys.exit(main())
