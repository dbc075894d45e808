"""python -m train.evaluate RUN --data PATH: how good a finished run is on any data with its
labels, and where it is wrong. With --text PATH: how well it knows the words of plain text."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from minibert.files import json_text
from minibert.program import Parser, run_program
from minibert.usage import usage
from train.analysis import Analysis, analyse
from train.batches import Item, prepare
from train.evaluation import evaluate as measured
from train.load import load_split
from train.progress import Metrics
from train.report import report_sections
from train.saved import open_run
from train.tasks import KINDS, Kinds
from train.tasks.base import Task
from train.text import load_text_split

EXAMPLES = """\
%(prog)s runs/newsroom --data newsroom
%(prog)s runs/tweets --data later.csv --json
%(prog)s runs/novel --text novel.txt"""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found out: each task's metrics, and what is behind them."""

    split: str
    tasks: list[Task]
    metrics: Metrics
    analyses: Mapping[str, Analysis]

    def as_record(self) -> dict[str, Any]:
        """All of it as JSON holds it: the metrics, and beside each task's its analysis."""
        behind = {
            task.name: self.analyses[task.name].as_record(task)
            for task in self.tasks
            if task.name in self.analyses
        }
        return {
            name: {**values, **behind[name]} if isinstance(values, dict) else values
            for name, values in self.metrics.items()
        }

    def as_text(self) -> str:
        """The same for people."""
        sections = report_sections({self.split: self.metrics}, self.tasks, self.analyses)
        return "\n\n".join(f"{heading}\n\n{text}" for heading, text in sections)


def evaluate(
    name: str, data: str | None, split: str, kinds: Kinds = KINDS, *, text: str | None = None
) -> Evaluation:
    """Evaluate a finished run on one split of some data or plain text; a single file is its own
    split.

    name: as `open_run` takes it. Raises InputError for a folder that is no run, and for data that
    the run has no label of.
    """
    run = open_run(name, kinds)
    tokenizer, announce = run.encoder.tokenizer, partial(print, file=sys.stderr)
    items: list[Item]
    if text is not None:
        items = [*load_text_split(text, split, run.settings, run.tasks, tokenizer, announce)]
    else:
        assert data is not None
        examples = load_split(
            data, split, run.settings, run.tasks, announce, kinds, is_run=run.is_run
        )
        items = prepare(examples, tokenizer, run.tasks)
    metrics, predictions = measured(run.model, run.tasks, items)
    return Evaluation(split, run.tasks, metrics, analyse(run.tasks, items, predictions))


def parser() -> Parser:
    """The options."""
    made = Parser(prog="python -m train.evaluate", **usage(__doc__, EXAMPLES))
    made.add_argument(
        "run", metavar="RUN", help="a finished run, or a folder or Hub id with a fine-tuned head"
    )
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", metavar="PATH", help="data as of train.run: a folder, a file (this or --text)"
    )
    source.add_argument(
        "--text", metavar="PATH", help="plain text: a folder, or a file (this or --data)"
    )
    made.add_argument(
        "--split",
        default="test",
        help="train, dev or test; a single file is its own split (default %(default)s)",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def main(arguments: list[str] | None = None, kinds: Kinds = KINDS) -> int:
    """Print how good a run is. Returns the exit status, as `run_program`."""

    def program() -> None:
        options = parser().parse_args(arguments)
        found = evaluate(options.run, options.data, options.split, kinds, text=options.text)
        print(json_text(found.as_record(), indent=2) if options.json else found.as_text())

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
