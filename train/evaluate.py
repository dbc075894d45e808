"""python -m train.evaluate RUN --data PATH: the metrics of a finished run on any data with its
labels."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minibert.files import InputError
from train.checkpoint import load_run
from train.data import Batch, Item, collate, evaluation_batches, prepare
from train.readers import read_source, repair_tags
from train.tasks import JointModel, Prediction, Task, check_labels

Metrics = dict[str, dict[str, float] | float]


def predict(
    model: JointModel,
    tasks: Sequence[Task],
    items: Sequence[Item],
    device: torch.device | str = "cpu",
    hidden: Callable[[Batch], Tensor] | None = None,
) -> list[dict[str, Prediction]]:
    """What each task says of each item, in the items' order; the model is left in the mode that it
    was in.

    hidden: how a batch becomes its last hidden state, if not by the whole model.
    """
    was_training = model.training
    model.eval()
    found: dict[int, dict[str, Prediction]] = {}
    with torch.no_grad():
        for chosen in evaluation_batches(items):
            batch = collate(chosen, (), device)
            states = (hidden or model)(batch)
            for task in tasks:
                asked = [i for i, item in enumerate(chosen) if task.applies(item)]
                if not asked:
                    continue
                places = [task.places(batch, i) for i in asked]
                flat = torch.tensor(
                    [p for places_of_item in places for p in places_of_item], dtype=torch.long
                )
                scores = task.scores(model, states, batch.layout, flat.to(device)).float().cpu()
                for i, part in zip(asked, scores.split([len(p) for p in places]), strict=True):
                    found.setdefault(chosen[i].number, {})[task.name] = task.decode(part, chosen[i])
    model.train(was_training)
    return [found.get(item.number, {}) for item in items]


def measure(
    tasks: Sequence[Task], items: Sequence[Item], predictions: Sequence[dict[str, Prediction]]
) -> Metrics:
    """Each task's metrics over the items that have its label; and `frame`, the share of sentences
    with tags and classes of which every one is right (a number never is, exactly)."""
    result: Metrics = {}
    for task in tasks:
        pairs = [
            (i, p[task.name])
            for i, p in zip(items, predictions, strict=True)
            if task.name in i.example.labels
        ]
        if pairs:
            result[task.name] = task.measure(
                [item for item, _ in pairs], [prediction for _, prediction in pairs]
            )
    names = {task.name for task in tasks}
    frames = []
    for item, prediction in zip(items, predictions, strict=True):
        labels = {
            n: label
            for n, label in item.example.labels.items()
            if n in names and not isinstance(label, float)
        }
        if len(labels) > 1 and any(isinstance(label, tuple) for label in labels.values()):
            frames.append(all(prediction[name].label == label for name, label in labels.items()))
    if frames:
        result["frame"] = sum(frames) / len(frames)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a run; the exit status is 0, or 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--data", required=True, metavar="PATH", help="as of train.run: a data folder, a file ..."
    )
    parser.add_argument(
        "--split", default="test", help="train, dev or test (the default); a single file is train"
    )
    options = parser.parse_args(arguments)
    try:
        run = load_run(options.run)
        splits, _ = read_source(options.data, [task.name for task in run.tasks if not task.labels])
        split = "train" if Path(options.data).is_file() else options.split
        if split not in splits:
            raise InputError(f"{options.data} has no {split} split; it has {', '.join(splits)}")
        examples = repair_tags(
            splits[split], f"{options.data}, {split}", lambda text: print(text, file=sys.stderr)
        )
        names = {name for example in examples for name in example.labels} & {
            task.name for task in run.tasks
        }
        if not names:
            raise InputError(
                f"{options.data} has no label of {', '.join(task.name for task in run.tasks)}"
            )
        check_labels(examples, run.tasks)
        items = prepare(examples, run.encoder.tokenizer)
        print(json.dumps(measure(run.tasks, items, predict(run.model, run.tasks, items)), indent=2))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
