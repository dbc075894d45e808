"""What a run was trained on, in a few lines: `--resume` holds it against the data that it finds."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from train.data.examples import DataSet, Example, names_in


def fingerprint(sets: Sequence[DataSet], texts: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The labels of each task, and each split's size and SHA-256, as JSON can hold them.

    texts: the same of plain text. Only what is learnt counts, in its order; where the files lie
    does not.
    """
    labels: dict[str, set[str]] = {}
    for data in sets:
        for example in data.splits["train"]:
            for name, value in example.labels.items():
                labels.setdefault(name, set()).update(names_in(value))
    return {
        "labels": {name: sorted(found) for name, found in sorted(labels.items())},
        "sets": [
            {"name": data.name, "splits": {s: _of(examples) for s, examples in data.splits.items()}}
            for data in sets
        ]
        + list(texts),
    }


def _of(examples: Sequence[Example]) -> Mapping[str, Any]:
    digest = hashlib.sha256()
    for e in examples:
        # a set has no order of its own
        labels = [
            (name, sorted(value) if isinstance(value, frozenset) else value)
            for name, value in sorted(e.labels.items())
        ]
        digest.update(repr((e.text, e.second, e.words, e.choices, labels)).encode())
    return {"examples": len(examples), "sha256": digest.hexdigest()}
