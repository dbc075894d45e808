"""Predictions, metrics, and the one number by which the best weights are chosen."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from minibert.batching import batches
from minibert.files import InputError
from train.batches import Item, collate
from train.memory import naming_batches
from train.model import Forward, JointModel
from train.progress import Metrics
from train.tasks.base import Task
from train.tasks.records import FRAME, LOSS, Prediction
from train.world import ALONE, World

BATCH_TOKENS = 2048  # most of a batch that is only predicted


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
    return _passed(model, tasks, items, device, forward, (), lambda: None, ALONE)[0]


def evaluate(
    model: JointModel,
    tasks: Sequence[Task],
    items: Sequence[Item],
    device: torch.device | str = "cpu",
    forward: Forward | None = None,
    *,
    is_tuning: bool = False,
    check: Callable[[], None] = lambda: None,
    world: World = ALONE,
) -> tuple[Metrics, list[dict[str, Prediction]]]:
    """The metrics of labelled items, with each task's loss; and the predictions, as of `predict`.

    is_tuning: whether `tune` comes before measuring. check: called before each batch; what it
    raises ends the evaluation. world: the processes that share the batches; each returns all.
    """
    predictions, losses = _passed(model, tasks, items, device, forward, tasks, check, world)
    if is_tuning:
        tune(tasks, items, predictions)
    metrics = measure(tasks, items, predictions)
    for name, loss in losses.items():
        if isinstance(found := metrics.get(name), dict):
            found[LOSS.name] = loss
    return metrics, predictions


def _passed(
    model: JointModel,
    tasks: Sequence[Task],
    items: Sequence[Item],
    device: torch.device | str,
    forward: Forward | None,
    with_loss: Sequence[Task],
    check: Callable[[], None],
    world: World,
) -> tuple[list[dict[str, Prediction]], dict[str, float]]:
    """Each item's predictions, and the mean loss of some tasks."""
    was_training = model.training
    model.eval()
    found: dict[int, dict[str, Prediction]] = {}
    sums = {task.name: 0.0 for task in with_loss}
    counts = dict(sums)
    stand_in = [item for item in items if item.parts][:1]  # for a process that has none left
    try:
        with torch.no_grad():
            for own in shared_out(items, world):
                check()
                # Where layers are sharded, a forward pass needs all processes.
                batch = collate(own or stand_in, with_loss, device)
                with naming_batches([batch], "lower max_length"):
                    states = (forward or model)(batch)  # (*, D)
                    if not own:
                        continue
                    for task in tasks:
                        for i, prediction in task.predict(model, states, batch).items():
                            _check_finite(task, batch.items[i], prediction)
                            of_item = found.setdefault(batch.items[i].number, {})
                            of_item[task.name] = prediction
                    for task in with_loss:
                        if count := task.count(batch):
                            sums[task.name] += float(task.loss(model, states, batch))
                            counts[task.name] += count
    finally:
        model.train(was_training)
    sums = dict(zip(sums, world.sum([*sums.values()]), strict=True))
    counts = dict(zip(counts, world.sum([*counts.values()]), strict=True))
    losses = {name: sums[name] / count for name, count in counts.items() if count}
    if odd := [name for name, loss in losses.items() if not math.isfinite(loss)]:
        raise InputError(f"the loss of {odd[0]} on {len(items)} examples is not a finite number")
    everywhere = {number: of for other in world.gather(found) for number, of in other.items()}
    return [everywhere.get(item.number, {}) for item in items], losses


def shared_out(items: Sequence[Item], world: World) -> Iterator[list[Item]]:
    """The batches in which items are evaluated: those of this process, as many as every process
    has. The last may be empty. They are the same batches whatever the number of processes, since
    the loss of some tasks is that of a batch."""
    readable = [item for item in items if item.parts]
    planned = list(batches([item.num_tokens for item in readable], BATCH_TOKENS))
    for first in range(0, len(planned), world.size):
        of_all = planned[first : first + world.size]
        own = of_all[world.rank] if world.rank < len(of_all) else ()
        yield [readable[i] for i in own]


def tune(
    tasks: Sequence[Task], items: Sequence[Item], predictions: Sequence[dict[str, Prediction]]
) -> None:
    """Let the tasks choose on labelled items what is not learnt. The predictions become those with
    what was chosen."""
    for task in tasks:
        labelled = [i for i, item in enumerate(items) if task.name in item.example.labels]
        tuned = task.tune(
            [items[i] for i in labelled], [predictions[i][task.name] for i in labelled]
        )
        for i, prediction in zip(labelled, tuned, strict=True):
            predictions[i][task.name] = prediction


def _check_finite(task: Task, item: Item, prediction: Prediction) -> None:
    parts = (prediction.label, prediction.probability, prediction.scores, prediction.vectors)
    if not _is_finite(parts):
        raise InputError(
            f"{item.example.where}: what {task.name} predicts is not a finite number: the weights "
            "hold values that are none, or too large to compute with"
        )


def _is_finite(value: Any) -> bool:
    """Whether all numbers in it are."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_finite, value))
    if isinstance(value, np.ndarray):
        return bool(np.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)


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

    monitor: a task's metric ("slots.f1") or loss ("slots.loss"), "frame", "loss" for the sum of all
    losses, or "mean" for the mean of the tasks' first metrics.
    """
    if monitor == LOSS.name:
        losses = [v for v in metrics.values() if isinstance(v, dict)]
        return -sum(values.get(LOSS.name, 0.0) for values in losses)
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
    (metric,) = (metric for metric in (*kind_metrics, LOSS) if metric.name == metric_name)
    if metric_name not in found:
        raise InputError(f"monitor = {monitor!r}: no dev example of {name} has a loss")
    return metric.sign * found[metric_name]


def check_monitor(tasks: Sequence[Task], dev: Sequence[Item], monitor: str) -> None:
    """Raise InputError if the metrics of dev will not have `monitor` among them."""
    labels = {name for item in dev for name in item.example.labels}
    there = [task for task in tasks if task.name in labels]
    names = ["mean", LOSS.name]
    names += [f"{task.name}.{metric.name}" for task in there for metric in (*task.metrics, LOSS)]
    if any(frame_parts(item, tasks) for item in dev):
        names.append(FRAME.name)
    if monitor not in names:
        raise InputError(f"monitor = {monitor!r}: the dev metrics are {', '.join(names)}")
