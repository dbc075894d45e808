"""python -m train.predict RUN "a sentence": what a finished run's tasks say of texts."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from minibert.files import InputError
from minibert.program import run_program
from minibert.texts import read_texts
from train.batches import prepare
from train.data.examples import Example
from train.data.words import split_text
from train.evaluation import predict
from train.saved import load_run
from train.tasks import KINDS, Kinds
from train.tasks.base import Prediction, Task


def to_examples(texts: Iterable[str], splitting: str, tasks: Sequence[Task]) -> list[Example]:
    """Texts as examples without labels, split into words as the training data was.

    If a task reads pairs, a tab separates the two texts. Raises InputError, naming the text's
    number, for a blank one, and for a single text if the tasks only read pairs.
    """
    reads_pairs = any(task.reads_pairs for task in tasks)
    result = []
    for i, line in enumerate(texts, start=1):
        text, tab, second = line.partition("\t") if reads_pairs else (line, "", "")
        if not text.strip() or (tab and not second.strip()):
            raise InputError(f"text {i} is blank")
        words = tuple(split_text(text, splitting))
        example = Example(text, {}, f"text {i}", words, second if tab else None)
        if not tab and not any(task.inputs(example) for task in tasks):
            raise InputError(f"text {i} is one text, and this run compares two: TEXT, a tab, TEXT")
        result.append(example)
    return result


def as_record(
    example: Example, predictions: dict[str, Prediction], tasks: Sequence[Task]
) -> dict[str, Any]:
    """One text's predictions, ready for JSON."""
    record: dict[str, Any] = {"text": example.text}
    if example.second is not None:
        record["second"] = example.second
    for task in tasks:
        if task.name in predictions:
            record[task.name] = task.as_record(predictions[task.name], example)
    return record


def as_lines(example: Example, predictions: dict[str, Prediction], tasks: Sequence[Task]) -> str:
    """The same for people."""
    lines = [example.text] if example.second is None else [example.text, example.second]
    for task in tasks:
        if task.name in predictions:
            lines.append(f"  {task.name}: {task.as_text(predictions[task.name], example)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None, kinds: Kinds = KINDS) -> int:
    """Print predictions. Returns the exit status, as `run_program`."""
    parser = argparse.ArgumentParser(prog="python -m train.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text (a tab separates a pair)")
    parser.add_argument("--input", metavar="FILE", help="texts, one a line; - for standard input")
    parser.add_argument("--json", action="store_true", help="JSON lines")
    options = parser.parse_args(arguments)

    def program() -> None:
        texts = read_texts(options.texts, options.input)
        run = load_run(options.run, kinds)
        examples = to_examples(texts, run.splitting, run.tasks)
        items = prepare(examples, run.encoder.tokenizer, run.tasks)
        for item, found in zip(items, predict(run.model, run.tasks, items), strict=True):
            if options.json:
                record = as_record(item.example, found, run.tasks)
                print(json.dumps(record, ensure_ascii=False))
            else:
                print(as_lines(item.example, found, run.tasks))

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
