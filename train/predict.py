"""python -m train.predict RUN "a sentence": what a finished run's tasks say of texts."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from minibert.files import InputError
from minibert.texts import read_texts
from train.checkpoint import Run, load_run
from train.data import Example, Item, prepare
from train.evaluate import predict
from train.metrics import entities
from train.readers import WORD
from train.tasks import Prediction, Task


def examples(texts: Iterable[str], split_words: str, tasks: Sequence[Task]) -> list[Example]:
    """Texts as examples without labels, split into words as the training data was.

    Where a task compares pairs, a tab separates the two texts. Raises InputError, naming the text's
    number, for a blank one, and for one that is no pair where pairs are all that the tasks know.
    """
    kinds = {task.kind for task in tasks}
    result = []
    for i, line in enumerate(texts, start=1):
        text, tab, second = line.partition("\t") if "similarity" in kinds else (line, "", "")
        if not text.strip() or (tab and not second.strip()):
            raise InputError(f"text {i} is blank")
        if kinds == {"similarity"} and not tab:
            raise InputError(f"text {i} is one text, and this run compares two: TEXT, a tab, TEXT")
        words = text.split() if split_words == "whitespace" else WORD.findall(text)
        result.append(Example(text, {}, f"text {i}", tuple(words), second if tab else None))
    return result


def as_record(run: Run, item: Item, predictions: dict[str, Prediction]) -> dict[str, Any]:
    """One text's predictions, ready for JSON."""
    record: dict[str, Any] = {"text": item.example.text}
    if item.example.second is not None:
        record["second"] = item.example.second
    for task in run.tasks:
        if task.name not in predictions:
            continue
        prediction = predictions[task.name]
        if isinstance(prediction.label, tuple):
            words, tags, sure = item.example.words or (), prediction.label, prediction.probability
            assert isinstance(sure, tuple)
            record[task.name] = [
                {
                    "type": kind,
                    "text": " ".join(words[start:end]),
                    "probability": min(sure[start:end]),
                    "words": [start, end],
                }
                for kind, start, end in sorted(entities(tags), key=lambda entity: entity[1])
            ]
        elif prediction.probability is None:
            record[task.name] = {"score": prediction.label}
        else:
            record[task.name] = {"label": prediction.label, "probability": prediction.probability}
    return record


def as_lines(record: dict[str, Any]) -> str:
    """The same for people."""
    lines = [value for name, value in record.items() if name in ("text", "second")]
    for name, value in record.items():
        if name in ("text", "second"):
            continue
        if isinstance(value, list):
            shown = (
                "; ".join(f"{e['type']}: {e['text']} ({e['probability']:.2f})" for e in value)
                or "none"
            )
        elif "score" in value:
            shown = f"{value['score']:.4f}"
        else:
            shown = f"{value['label']} ({value['probability']:.2f})"
        lines.append(f"  {name}: {shown}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Predict; the exit status is 0, or 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m train.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text (a tab separates a pair)")
    parser.add_argument("--input", metavar="FILE", help="texts, one a line; - for standard input")
    parser.add_argument("--json", action="store_true", help="JSON lines")
    options = parser.parse_args(arguments)
    try:
        texts = read_texts(options.texts, options.input)
        run = load_run(options.run)
        items = prepare(examples(texts, run.split_words, run.tasks), run.encoder.tokenizer)
        for item, predictions in zip(items, predict(run.model, run.tasks, items), strict=True):
            record = as_record(run, item, predictions)
            print(json.dumps(record, ensure_ascii=False) if options.json else as_lines(record))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
