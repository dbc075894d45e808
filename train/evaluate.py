"""python -m train.evaluate RUN --data PATH: the metrics of a finished run on any data with its
labels."""

import argparse
import json
import sys
from pathlib import Path

from minibert.program import run_program
from train.batches import prepare
from train.evaluation import Metrics, measure, predict
from train.load import load_split
from train.saved import load_run
from train.tasks import KINDS, Kinds


def evaluate(folder: Path, data: str, split: str, kinds: Kinds = KINDS) -> Metrics:
    """The metrics of a finished run on one split of some data; a single file is its own split.

    Raises InputError for a folder that is no run, and for data that the run has no label of.
    """
    run = load_run(folder, kinds)
    examples = load_split(
        data, split, run.settings, run.tasks, lambda text: print(text, file=sys.stderr), kinds
    )
    items = prepare(examples, run.encoder.tokenizer, run.tasks)
    return measure(run.tasks, items, predict(run.model, run.tasks, items))


def main(arguments: list[str] | None = None, kinds: Kinds = KINDS) -> int:
    """Print a run's metrics. Returns the exit status, as `run_program`."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--data", required=True, metavar="PATH", help="as of train.run: a data folder, a file ..."
    )
    parser.add_argument(
        "--split", default="test", help="train, dev or test (the default); a single file is train"
    )
    options = parser.parse_args(arguments)
    return run_program(
        lambda: print(
            json.dumps(evaluate(options.run, options.data, options.split, kinds), indent=2)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
