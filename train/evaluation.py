"""Predictions, metrics, and the one number by which the best weights are chosen."""

from collections.abc import Iterator, Sequence

import torch

from minibert.files import InputError
from train.batches import Item, collate, evaluation_batches
from train.model import JointModel
from train.step import Forward
from train.tasks.base import FRAME, Metric, Prediction, Task

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
        for chosen in evaluation_batches([item for item in items if item.parts]):
            batch = collate(chosen, device)
            states = (forward or model)(batch)  # (*, D)
            for task in tasks:
                for i, prediction in task.predict(model, states, batch).items():
                    found[chosen[i].number][task.name] = prediction
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
            _upwards(task.metrics[0], values[task.metrics[0].name])
            for task in tasks
            if isinstance(values := metrics.get(task.name), dict)
        ]
        return sum(main) / len(main) if main else 0.0
    if monitor == FRAME.name and isinstance(frame := metrics.get(FRAME.name), float):
        return frame
    name, _, metric_name = monitor.rpartition(".")
    metric = dict(_named_metrics(tasks))[monitor]
    values = metrics[name]
    assert isinstance(values, dict)
    return _upwards(metric, values[metric_name])


def check_monitor(tasks: Sequence[Task], dev: Sequence[Item], monitor: str) -> None:
    """Raise InputError if the metrics of dev will not have `monitor` among them."""
    labels = {name for item in dev for name in item.example.labels}
    names = ["mean", *(name for name, _ in _named_metrics([t for t in tasks if t.name in labels]))]
    if any(frame_parts(item, tasks) for item in dev):
        names.append(FRAME.name)
    if monitor not in names:
        raise InputError(f"monitor = {monitor!r}: the dev metrics are {', '.join(names)}")


def _named_metrics(tasks: Sequence[Task]) -> Iterator[tuple[str, Metric]]:
    for task in tasks:
        for metric in task.metrics:
            yield f"{task.name}.{metric.name}", metric


def _upwards(metric: Metric, value: float) -> float:
    return -value if metric.lower_is_better else value
