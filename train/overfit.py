"""The sanity check: a model that learns at all must be able to memorise one small batch."""

from collections.abc import Mapping, Sequence

from minibert.files import InputError, one_line
from train.batches import Item
from train.report import text_of
from train.tasks.base import Task
from train.tasks.records import Prediction


def check_memorised(
    tasks: Sequence[Task], items: Sequence[Item], predictions: Sequence[Mapping[str, Prediction]]
) -> None:
    """Print predictions beside labels. Raises InputError if one is wrong."""
    verdicts = {}
    for task in tasks:
        own = [i for i, item in enumerate(items) if task.name in item.example.labels]
        right = task.are_right([items[i] for i in own], [predictions[i][task.name] for i in own])
        verdicts[task.name] = dict(zip(own, right, strict=True))
    wrong = total = 0
    for i, (item, predicted) in enumerate(zip(items, predictions, strict=True)):
        example = item.example
        print(text_of(example))
        for task in tasks:
            if task.name not in example.labels:
                continue
            gold, found = example.labels[task.name], predicted[task.name].label
            total += 1
            if verdicts[task.name][i]:
                print(f"  right  {task.name}: {one_line(task.readable(gold, example))}")
            else:
                wrong += 1
                readable = (one_line(task.readable(label, example)) for label in (gold, found))
                print(f"  WRONG  {task.name}: {', predicted '.join(readable)}")
    if wrong:
        raise InputError(
            f"the batch was not memorised: {wrong} of {total} predictions are wrong. Train longer "
            "(epochs) or faster (lr, head_lr); if that does not help, gradients do not reach what "
            "should learn"
        )
    print(f"memorised: all {total} predictions are equal to the labels")
