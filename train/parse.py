"""Reading settings that are small languages: "a=1, b=2", or "mean, emotion=cls"."""

import re

from minibert.files import InputError


def parse_by_task(text: str, setting: str) -> tuple[str | None, dict[str, str]]:
    """ "mean, emotion=cls" -> the word for all tasks, if there is one, and those for single tasks.
    Raises InputError, naming the setting, for two words for all."""
    parts = [part.strip() for part in text.split(",")]
    words = [part for part in parts if "=" not in part]
    if len(words) > 1:
        raise InputError(
            f"{setting} = {text!r}: both {words[0]!r} and {words[1]!r} are for all tasks"
        )
    default = words[0] if words else None
    return default, parse_pairs(",".join(part for part in parts if "=" in part), setting)


def parse_pairs(text: str, setting: str) -> dict[str, str]:
    """ "a=1, b=2" -> {"a": "1", "b": "2"}. Raises InputError, naming the setting, for anything
    else."""
    pairs = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in pairs:
            raise InputError(
                f"{setting} = {text!r}: {part!r} should read name=value, each name once"
            )
        pairs[key] = value
    return pairs


def parse_whole(text: str) -> int | None:
    """A whole number of at most nine digits, as it is usually written; None for any other text."""
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,8}", text) else None


def parse_number(text: str, setting: str) -> float:
    """A finite number of at least 0. Raises InputError, naming the setting."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise InputError(f"{setting}: {text!r} is no number of at least 0")
    return number
