"""Cutting a dev split off the training data."""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence

import torch

from train.data.examples import Example

DEV_SHARE = 0.1


def cut_dev(
    examples: Sequence[Example], seed: int, classes_of: Callable[[Example], Collection[Hashable]]
) -> tuple[list[Example], list[Example]]:
    """Train without a tenth of it, and that tenth.

    classes_of: the classes that an example's labels name. Dev has a tenth of each class, at least
    one example if it can; the last example of a class stays in train. Copies of a text stay on one
    side. What else is chosen is random.
    """
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    copies: dict[Hashable, list[int]] = {}
    for i in order:
        copies.setdefault(examples[i].content, []).append(i)
    groups = list(copies.values())
    classes = [Counter(c for i in group for c in classes_of(examples[i])) for group in groups]
    size = max(1, round(len(examples) * DEV_SHARE))
    left = sum(classes, Counter[Hashable]())
    wanted = {found: max(1.0, count * DEV_SHARE) for found, count in left.items()}
    dev: set[int] = set()  # groups
    taken = 0

    def take(group: int, limit: int) -> bool:
        """Move a group to dev, if it fits in and no class would be gone from train."""
        nonlocal taken
        may = (
            group not in dev
            and taken + len(groups[group]) <= limit
            and len(dev) + 1 < len(groups)
            and all(left[found] > count for found, count in classes[group].items())
        )
        if may:
            dev.add(group)
            taken += len(groups[group])
            left.subtract(classes[group])
            for found, count in classes[group].items():
                wanted[found] -= count
        return may

    having: dict[Hashable, list[int]] = {}
    for group in reversed(range(len(groups))):
        for found in classes[group]:
            having.setdefault(found, []).append(group)
    # One of each class, the commonest first, up to half of dev. Then the class comes first that dev
    # lacks most of, and of equals the rarest.
    for found in sorted(having, key=lambda found: -left[found]):
        if taken < size // 2:
            any(take(group, size // 2) for group in reversed(having[found]))
    queue = [(-wanted[found], left[found], n, found) for n, found in enumerate(having)]
    heapq.heapify(queue)
    while queue and taken < size:
        lacking, count, n, found = heapq.heappop(queue)
        if wanted[found] <= 0 or not having[found]:
            continue
        if -lacking == wanted[found]:
            take(having[found].pop(), size)
        heapq.heappush(queue, (-wanted[found], count, n, found))
    for group in range(len(groups)):
        take(group, size)
    if not dev:  # every text has more copies than a tenth of all
        for group in sorted(range(len(groups)), key=lambda group: len(groups[group])):
            if take(group, len(examples)):
                break
    chosen = {i for group in dev for i in groups[group]}
    train = [example for i, example in enumerate(examples) if i not in chosen]
    return train, [example for i, example in enumerate(examples) if i in chosen]
