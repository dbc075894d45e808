"""python -m train.predict RUN "a sentence": what a finished run's tasks say of texts."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minibert.batching import windows
from minibert.files import InputError, json_text, one_line
from minibert.program import run_program
from minibert.terminal import painted
from minibert.texts import count_texts, lazy_texts
from minibert.tokens import TruncationWarning
from train.batches import prepare
from train.evaluation import predict
from train.parse import parse_pairs
from train.predict_options import parser
from train.report import texts_of
from train.saved import Run, load_run, open_run
from train.tasks import KINDS, Kinds
from train.tasks.base import Task
from train.tasks.records import Prediction
from train.unlabelled import Unlabelled, from_json_lines, from_lines, from_pairs


def stream(
    run: Run, unlabelled: Iterable[Unlabelled]
) -> Iterator[tuple[Unlabelled, dict[str, Prediction]]]:
    """What a run's tasks say of any number of examples, in their order and in flat memory.

    Raises InputError for what cannot be read, after the predictions of what came before it.
    """
    errors: list[InputError] = []
    for window in windows(_up_to_error(unlabelled, errors), _characters):
        with warnings.catch_warnings():  # what was cut off is said of each text
            warnings.simplefilter("ignore", TruncationWarning)
            items = prepare([one.example for one in window], run.encoder.tokenizer, run.tasks)
        yield from zip(window, predict(run.model, run.tasks, items), strict=True)
    if errors:
        raise errors[0]


def predict_texts(
    run: Run, texts: Sequence[str] | Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """What a run's tasks say of texts, or of pairs of texts, as `--json` prints it. Raises
    InputError for a blank text, and for one that no task reads."""
    pairs = [text for text in texts if isinstance(text, tuple)]
    single = [text for text in texts if isinstance(text, str)]
    if pairs and single:
        raise InputError("give texts or pairs of texts, not both")
    if pairs:
        given = from_pairs(pairs, run.splitting, run.tasks)
    else:
        given = from_lines(single, run.splitting, run.tasks)
    return [as_record(one, found, run.tasks) for one, found in stream(run, given)]


def _up_to_error(
    unlabelled: Iterable[Unlabelled], errors: list[InputError]
) -> Iterator[Unlabelled]:
    """The examples as far as they can be read. The error that ends them goes into `errors`."""
    try:
        yield from unlabelled
    except InputError as error:
        errors.append(error)


def _characters(one: Unlabelled) -> int:
    return sum(map(len, texts_of(one.example)))


def cut_off(predictions: Mapping[str, Prediction]) -> int:
    """How many tokens were not seen, by the task that saw fewest."""
    return max(prediction.cut for prediction in predictions.values())


def likeliest(scores: Mapping[str, float], top: int | None) -> list[str]:
    """The classes with the highest scores, the highest first."""
    return sorted(scores, key=lambda label: -scores[label])[:top]


def as_record(
    given: Unlabelled,
    predictions: Mapping[str, Prediction],
    tasks: Sequence[Task],
    top: int | None = None,
) -> dict[str, Any]:
    """One example's predictions, ready for JSON, after the fields that it came with. A field that
    has a task's name gives way to the prediction."""
    record = dict(given.fields)
    for task in tasks:
        if (prediction := predictions.get(task.name)) is None:
            continue
        record[task.name] = task.as_record(prediction, given.example)
        if top is not None and (scores := prediction.scores) is not None:
            kept = likeliest(scores, top)
            record[task.name]["scores"] = {k: score for k, score in scores.items() if k in kept}
    return record | {"cut": cut} if (cut := cut_off(predictions)) else record


def as_lines(
    given: Unlabelled,
    predictions: Mapping[str, Prediction],
    tasks: Sequence[Task],
    top: int | None = None,
) -> str:
    """The same for people."""
    example = given.example
    texts = [example.text] if example.second is None else [example.text, example.second]
    lines = [painted(one_line(text), "strong") for text in texts]
    for task in tasks:
        if (prediction := predictions.get(task.name)) is None:
            continue
        lines.append(f"  {one_line(task.name)}: {one_line(task.as_text(prediction, example))}")
        if top is not None and (scores := prediction.scores) is not None:
            kept = likeliest(scores, top)
            shown = {label: one_line(label) for label in kept}
            width = max(map(len, shown.values()))
            for label, name in shown.items():
                score = painted(f"{scores[label]:.4f}", "number")
                lines.append(f"    {name:<{width}}  {score}")
    if cut := cut_off(predictions):
        lines.append(f"  cut: {cut} tokens not seen")
    return "\n".join(lines)


def open_asked(options: argparse.Namespace, kinds: Kinds) -> Run:
    """The run or model that the options name; the texts among the names are left in them. Raises
    InputError unless there is one."""
    if options.model is not None:
        if options.names and os.path.exists(os.path.join(options.names[0], "tasks.json")):
            raise InputError(
                f"give the run {options.names[0]} or --model {options.model}, not both"
            )
        run = open_run(options.model, kinds, options.revision)
    elif options.revision is not None:
        raise InputError("--revision is of --model, and there is none")
    elif not options.names:
        raise InputError("nothing to predict with: name the folder of a finished run, or --model")
    else:
        folder = Path(options.names.pop(0))
        if os.path.exists(folder / "config.json"):  # False also for a text, too long for a name
            raise InputError(
                f"{folder} is a model, not a run: python -m train.predict --model {folder}"
            )
        run = load_run(folder, kinds)
    if options.stride is not None:
        set_stride(run.tasks, options.stride)
    return run


def set_stride(tasks: Sequence[Task], stride: int) -> None:
    """Have the tasks that can read long texts in windows. Raises InputError if none can."""
    able = [task for task in tasks if task.takes_windows]
    if stride < 1 or not able:
        why = "must be at least 1" if able else "no task here reads windows"
        raise InputError(f"--stride {stride}: {why}")
    for task in able:
        task.overlap = stride


def read_asked(options: argparse.Namespace, run: Run) -> tuple[Iterator[Unlabelled], int | None]:
    """What the options give to predict, and how much that is, where it is known. Raises InputError
    for two inputs at once, or none."""
    splitting = "whitespace" if options.words else run.splitting
    if (options.question is None) != (options.context is None):
        raise InputError("a question needs both --question and --context")
    pairs = [*(options.pair or ())]
    if options.question is not None:
        pairs.append((options.question, options.context))
    if pairs:
        if options.names or options.input is not None or options.choice:
            raise InputError("give texts, --input, or pairs and questions: only one of them")
        return from_pairs(pairs, splitting, run.tasks), len(pairs)
    lines = lazy_texts(options.names, options.input)
    source = "standard input" if options.input in (None, "-") else options.input
    total = count_texts(options.names, options.input)
    if options.json_lines or (options.input or "").endswith(".jsonl"):
        if options.names or options.choice or options.words:
            raise InputError("JSON lines hold their own texts, words and choices")
        columns = tuple(parse_pairs(run.settings.columns, "columns").items())
        return from_json_lines(lines, source, splitting, run.tasks, columns), total
    place = "text" if options.names not in ([], ["-"]) else f"{source}, line"
    return from_lines(lines, splitting, run.tasks, options.choice, place), total


def main(arguments: list[str] | None = None, kinds: Kinds = KINDS) -> int:
    """Print predictions. Returns the exit status, as `run_program`."""

    def program() -> None:
        options = parser().parse_intermixed_args(arguments)
        if options.top is not None and options.top < 1:
            raise InputError(f"--top {options.top}: must be at least 1")
        run = open_asked(options, kinds)
        unlabelled, total = read_asked(options, run)
        # Where the predictions are seen, they show themselves how far it is.
        silent = True if sys.stdout.isatty() else None
        count = cut = 0
        with tqdm(total=total, unit="text", disable=silent, leave=False) as bar:
            for given, predictions in stream(run, unlabelled):
                count += 1
                cut += cut_off(predictions) > 0
                if options.json:
                    record = as_record(given, predictions, run.tasks, options.top)
                    print(json_text(record))
                else:
                    print(as_lines(given, predictions, run.tasks, options.top))
                bar.update()
        if cut:
            limit = run.encoder.tokenizer.max_length
            warnings.warn(
                f"{cut} of {count} texts are longer than {limit} tokens, and were cut off: "
                "--stride N reads them in windows",
                TruncationWarning,
                stacklevel=1,
            )

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
