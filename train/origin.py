"""What a run began with, in a few lines: `--resume` holds it against what it finds."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.formats.tensors import digest
from train.batches import Item
from train.data.fingerprint import Fingerprint, data_changes
from train.tasks.base import Task


class ModelPrint(TypedDict):
    """A model before its first step; each text is a SHA-256."""

    config: dict[str, Any]
    encoder: dict[str, Any]  # its settings
    weights: str  # "" for random weights, which follow from the seed
    vocabulary: str
    tokens: str  # those of the data, to which all that a tokenizer does has led
    tasks: list[dict[str, Any]]  # as tasks.json describes them


class Origin(TypedDict):
    """The data and the model; earlier versions did not note them."""

    data: Fingerprint | None
    model: ModelPrint | None


def model_print(
    encoder: SentenceEncoder, tasks: Sequence[Task], items: Iterable[Item], is_random: bool
) -> ModelPrint:
    """The fingerprint of a model before its first step, as JSON can hold it. is_random: whether its
    weights were drawn."""
    tokens = hashlib.sha256()
    for item in items:
        for part in item.parts:
            tokens.update(array("q", part.ids).tobytes())
    words = sorted(encoder.tokenizer.backend.get_vocab(with_added_tokens=True).items())
    found = ModelPrint(
        config=asdict(encoder.bert.config),
        encoder=asdict(encoder.settings),
        weights="" if is_random else digest(dict(encoder.bert.named_parameters())),
        vocabulary=hashlib.sha256(json.dumps(words).encode()).hexdigest(),
        tokens=tokens.hexdigest(),
        tasks=[task.describe() for task in tasks],
    )
    result: ModelPrint = json.loads(json.dumps(found))  # tuples become lists
    return result


def check_origin(run: Path, before: Origin, now: Origin) -> None:
    """Raise InputError, naming what has changed, if a run would go on with another origin than it
    began with."""
    for what, changes in (
        ("data", before["data"] and now["data"] and data_changes(before["data"], now["data"])),
        ("model", before["model"] and now["model"] and _changes(before["model"], now["model"])),
    ):
        if changes:
            raise InputError(
                f"the {what} is not what {run} was trained on: {'; '.join(changes)}. Put it back, "
                "or start a new run"
            )


def facts(origin: Origin) -> dict[str, Any]:
    """What it says, part by part: processes that train together must agree on each."""
    data, model = origin["data"], origin["model"]
    assert data is not None
    assert model is not None
    splits = {
        f"the {split} split of {one['name']}": found
        for one in data["sets"]
        for split, found in one["splits"].items()
    }
    labels = {f"the labels of {name}": found for name, found in data["labels"].items()}
    return labels | splits | {f"the model's {name}": found for name, found in model.items()}


def _changes(before: ModelPrint, now: ModelPrint) -> list[str]:
    """What differs between two models, in words."""
    changes = []
    for then, found in ((before["config"], now["config"]), (before["encoder"], now["encoder"])):
        changes += [
            f"its {key} was {then.get(key)!r:.80} and is {found.get(key)!r:.80}"
            for key in sorted(then.keys() | found.keys())
            if then.get(key) != found.get(key)
        ]
    if before["weights"] != now["weights"]:
        changes.append("its weights are others")
    if before["vocabulary"] != now["vocabulary"]:
        changes.append("its vocabulary is another")
    elif before["tokens"] != now["tokens"]:
        changes.append("its tokenizer makes other tokens of the data")
    if before["tasks"] != now["tasks"]:
        changes += [
            f"the task {then.get('name')!r:.80} is another"
            for then, found in zip(before["tasks"], now["tasks"], strict=False)
            if then != found
        ] or [f"it had {len(before['tasks'])} tasks and has {len(now['tasks'])}"]
    return changes
