"""Predictions, metrics, and the one number by which the best weights are chosen."""

from collections.abc import Sequence

import torch

from minibert.batching import batches
from minibert.files import InputError
from train.batches import Item, collate
from train.model import JointModel
from train.step import Forward
from train.tasks.base import FRAME, Prediction, Task

BATCH_TOKENS = 2048  # most of a batch that is only predicted
Metrics = dict[str, dict[str, float] | float]


def predict(
    model: JointModel,
    tasks: Sequence[Task],
    items: Sequence[Item],
    device: torch.device | str = "cpu",
    forward: Forward | None = None,
) -> list[dict[str, Prediction]]:
    """What each task says of each item, in the items' order.

    The model computes in eval mode, and is left in the mode that it was in. forward: how a batch
    becomes its last hidden state, if not by the whole model.
    """
    was_training = model.training
    model.eval()
    found: dict[int, dict[str, Prediction]] = {item.number: {} for item in items}
    with torch.no_grad():
        readable = [item for item in items if item.parts]
        for numbers in batches([item.num_tokens for item in readable], BATCH_TOKENS):
            batch = collate([readable[i] for i in numbers], (), device)
            states = (forward or model)(batch)  # (*, D)
            for task in tasks:
                for i, prediction in task.predict(model, states, batch).items():
                    found[batch.items[i].number][task.name] = prediction
    model.train(was_training)
    return [found[item.number] for item in items]


def measure(
    tasks: Sequence[Task], items: Sequence[Item], predictions: Sequence[dict[str, Prediction]]
) -> Metrics:
    """Each task's metrics over the items that have its label; and, if some items have both tags and
    a class, `frame`: the share of them in which all are right. Numbers are left out of it."""
    result: Metrics = {}
    for task in tasks:
        labelled = [i for i, item in enumerate(items) if task.name in item.example.labels]
        if labelled:
            result[task.name] = task.measure(
                [items[i] for i in labelled], [predictions[i][task.name] for i in labelled]
            )
    frames = [
        all(
            task.is_right(item.example.labels[task.name], prediction[task.name].label)
            for task in parts
        )
        for item, prediction in zip(items, predictions, strict=True)
        if (parts := frame_parts(item, tasks))
    ]
    if frames:
        result[FRAME.name] = sum(frames) / len(frames)
    return result


def frame_parts(item: Item, tasks: Sequence[Task]) -> list[Task]:
    """The tasks whose labels make an item's frame: two or more, and one of them labels words."""
    parts = [t for t in tasks if t.name in item.example.labels and not t.is_number]
    return parts if len(parts) > 1 and any(task.labels_words for task in parts) else []


def monitored_value(metrics: Metrics, tasks: Sequence[Task], monitor: str) -> float:
    """One number to choose the best weights by, the higher the better.

    monitor: a task's metric ("slots.f1"), "frame", or "mean" for the mean of the tasks' first
    metrics.
    """
    if monitor == "mean":
        main = [
            task.metrics[0].sign * values[task.metrics[0].name]
            for task in tasks
            if isinstance(values := metrics.get(task.name), dict)
        ]
        return sum(main) / len(main) if main else 0.0
    name, _, metric_name = monitor.rpartition(".")
    found = metrics[name or monitor]
    if not isinstance(found, dict):
        return found
    (kind_metrics,) = (task.metrics for task in tasks if task.name == name)
    (metric,) = (metric for metric in kind_metrics if metric.name == metric_name)
    return metric.sign * found[metric_name]


def check_monitor(tasks: Sequence[Task], dev: Sequence[Item], monitor: str) -> None:
    """Raise InputError if the metrics of dev will not have `monitor` among them."""
    labels = {name for item in dev for name in item.example.labels}
    there = [task for task in tasks if task.name in labels]
    names = ["mean", *(f"{task.name}.{metric.name}" for task in there for metric in task.metrics)]
    if any(frame_parts(item, tasks) for item in dev):
        names.append(FRAME.name)
    if monitor not in names:
        raise InputError(f"monitor = {monitor!r}: the dev metrics are {', '.join(names)}")
