"""What a run was trained on, in a few lines: `--resume` holds it against the data that it finds."""

import hashlib
from collections.abc import Sequence
from typing import TypedDict

from train.data.examples import DataSet, Example, names_in


class SplitPrint(TypedDict):
    """A split of a data set."""

    examples: int
    sha256: str


class SetPrint(TypedDict):
    """A data set."""

    name: str
    splits: dict[str, SplitPrint]


class Fingerprint(TypedDict):
    """All data of a run, and the labels of each task."""

    labels: dict[str, list[str]]
    sets: list[SetPrint]


def fingerprint(sets: Sequence[DataSet], texts: Sequence[SetPrint] = ()) -> Fingerprint:
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
            SetPrint(name=data.name, splits={s: _of(found) for s, found in data.splits.items()})
            for data in sets
        ]
        + list(texts),
    }


def data_changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs between the data of two runs, in words."""
    changes = [
        f"the labels of {name} were {', '.join(then)} and are {', '.join(found)}"
        for name in sorted(before["labels"].keys() | now["labels"].keys())
        if (then := before["labels"].get(name, ["none"]))
        != (found := now["labels"].get(name, ["none"]))
    ]
    if len(before["sets"]) != len(now["sets"]):
        changes.append(f"there were {len(before['sets'])} data sets, and now {len(now['sets'])}")
    for old, new in zip(before["sets"], now["sets"], strict=False):
        if old["name"] != new["name"]:
            changes.append(f"the data set {old['name']} is now {new['name']}")
        for split in sorted(old["splits"].keys() | new["splits"].keys()):
            nothing = SplitPrint(examples=0, sha256="")
            was, is_ = (one["splits"].get(split, nothing) for one in (old, new))
            place = f"the {split} split of {new['name']}"
            if was["examples"] != is_["examples"]:
                changes.append(f"{place} had {was['examples']} examples and has {is_['examples']}")
            elif was != is_:
                changes.append(f"{place} has other texts or labels")
    return changes


def _of(examples: Sequence[Example]) -> SplitPrint:
    digest = hashlib.sha256()
    for e in examples:
        # a set has no order of its own
        labels = [
            (name, sorted(value) if isinstance(value, frozenset) else value)
            for name, value in sorted(e.labels.items())
        ]
        digest.update(repr((e.text, e.second, e.words, e.choices, labels)).encode())
    return {"examples": len(examples), "sha256": digest.hexdigest()}
