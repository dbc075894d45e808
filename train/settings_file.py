"""Settings in a file: a recipe, or the settings.toml of a run."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from minibert.files import InputError, read_text
from train.settings import Settings


def read_settings(file: Path) -> dict[str, Any]:
    """The keys of a recipe or settings.toml. Raises InputError for a key that is no setting, naming
    the nearest."""
    text = read_text(file)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also thousands of digits or brackets
        raise InputError(f"{file}: not TOML ({error})") from error
    names = [f.name for f in fields(Settings)]
    content = as_now(content)
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(key[:80], names, n=1, cutoff=0)[0]
            raise InputError(f"{file}: there is no setting {key!r:.80}; the nearest is {near!r}")
    return content


def as_now(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, by their names of today."""
    now = dict(content)
    if "bf16" in now:
        now["precision"] = "bfloat16" if now.pop("bf16") else "float32"
    return now
