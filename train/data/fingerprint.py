"""What the data of a run is, in few numbers: a resumed run is held against it."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from train.data.examples import DataSet, Example


def fingerprint(sets: Sequence[DataSet]) -> dict[str, Any]:
    """The labels of each task, and each split's size and SHA-256, as JSON can hold them."""
    labels: dict[str, set[str]] = {}
    for example in (example for data in sets for example in data.splits["train"]):
        for name, value in example.labels.items():
            found = {value} if isinstance(value, str) else value
            if isinstance(found, tuple | set | frozenset):
                labels.setdefault(name, set()).update(map(str, found))
    return {
        "labels": {name: sorted(found) for name, found in sorted(labels.items())},
        "sets": [
            {"name": data.name, "splits": {s: _of(examples) for s, examples in data.splits.items()}}
            for data in sets
        ],
    }


def _of(examples: Sequence[Example]) -> Mapping[str, Any]:
    digest = hashlib.sha256()
    for e in examples:
        labels = [
            (name, sorted(value) if isinstance(value, frozenset) else value)
            for name, value in sorted(e.labels.items())
        ]
        digest.update(repr((e.text, e.second, e.words, e.choices, labels)).encode())
    return {"examples": len(examples), "sha256": digest.hexdigest()}
