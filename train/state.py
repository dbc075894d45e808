"""A checkpoint's state.json: where a run stands, its settings, and what it began with."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from minibert.files import InputError, read_object, write_json
from train.origin import Origin
from train.progress import Progress
from train.settings import Settings
from train.settings_file import as_now
from train.typed import misfit

FORMAT = 1  # of the file; 0 is that of earlier versions, which noted no format and no SHA-256


@dataclass
class State:
    """What state.json says."""

    settings: Settings
    progress: Progress
    origin: Origin
    torch: str  # the version of PyTorch that wrote it; "" if it is not known
    format: int = FORMAT


class Content(TypedDict):
    """The same as JSON has it. The settings may lack those that a later version has added."""

    settings: dict[str, Any]
    progress: Progress
    origin: Origin
    torch: str
    format: int


def write_state(state: State, file: Path) -> None:
    """Write state.json, with a SHA-256 of the rest of it."""
    content = asdict(state)
    write_json(file, content | {"sha256": sha256_of(content)})


def read_state(file: Path) -> State:
    """Read state.json. Raises InputError, naming the key, if it was changed, or is of no run."""
    content = read_object(file)
    if content.keys() <= {"settings", "progress", "data"}:
        content = _earlier(content)
    elif content.pop("sha256", None) != sha256_of(content):
        raise InputError(f"{file} was changed: its content is not what its SHA-256 says")
    try:
        if found := misfit(content, Content):
            raise InputError(found)
        if not 0 <= content["format"] <= FORMAT:
            raise InputError(f"it is of format {content['format']}, and only {FORMAT} is known")
        noted = as_now(content["settings"])
        if unknown := sorted(noted.keys() - {f.name for f in fields(Settings)}):
            raise InputError(f"settings has {unknown[0]!r:.80}, which is not known")
        settings, progress = Settings(**noted), Progress(**content["progress"])
        progress.check()
    except InputError as error:
        raise InputError(f"{file} is no state of a run: {error}") from error
    return State(settings, progress, content["origin"], content["torch"], content["format"])


def sha256_of(content: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _earlier(content: Mapping[str, Any]) -> dict[str, Any]:
    """What state.json of an earlier version says, in the format of today."""
    progress = content.get("progress")
    if isinstance(progress, dict):
        progress = dict(progress)
        if "worse" in progress:
            progress["evaluations_since_best"] = progress.pop("worse")
        if isinstance(progress.get("seconds"), int | float):  # not what they were spent on
            progress["seconds"] = {"training": progress["seconds"]}
    return {
        "settings": content.get("settings"),
        "progress": progress,
        "origin": {"data": content.get("data"), "model": None},
        "torch": "",
        "format": 0,
    }
