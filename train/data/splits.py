"""Cutting a dev split off the training data."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence

import torch

from train.data.examples import Example

DEV_SHARE = 0.1


def cut_dev(
    examples: Sequence[Example], seed: int, classes_of: Callable[[Example], Collection[Hashable]]
) -> tuple[list[Example], list[Example]]:
    """Train without a tenth of it, chosen at random, and that tenth.

    classes_of: the classes that an example's labels name. The last example of a class stays in
    train.
    """
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    classes = [classes_of(example) for example in examples]
    left = Counter(found for of_example in classes for found in of_example)
    size = min(max(1, round(len(order) * DEV_SHARE)), len(order) - 1)
    dev: set[int] = set()
    for i in order:
        if len(dev) < size and all(left[found] > 1 for found in classes[i]):
            left.subtract(classes[i])
            dev.add(i)
    train = [example for i, example in enumerate(examples) if i not in dev]
    return train, [example for i, example in enumerate(examples) if i in dev]
