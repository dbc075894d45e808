"""One setting: its default, its help text, and the values that it may have."""

import re
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, get_args, get_origin, get_type_hints

from minibert.files import InputError
from train.typed import LARGEST


def option(
    default: Any,
    help: str,
    choices: tuple[str, ...] | None = None,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    group: str | None = None,
) -> Any:
    """A field with its help text, and what its values may be: some words, or numbers within
    bounds. group: its heading in --help, and that of the options after it."""
    bounds = {"least": least, "above": above, "below": below}
    metadata = {"help": help, "choices": choices, "group": group, **bounds}
    return field(default=default, metadata=metadata)


def check_options(settings: Any) -> None:
    """Hold the fields of a frozen dataclass against their types and bounds. Lists become tuples,
    and whole numbers floats where these are meant. Raises InputError, naming the setting."""
    hints = get_type_hints(type(settings))
    for f in fields(settings):
        value, wanted = getattr(settings, f.name), hints[f.name]
        if isinstance(value, list) and get_origin(wanted) is tuple:
            value = tuple(value)
        if type(value) is int and abs(value) > LARGEST:
            raise InputError(f"{f.name}: a number may be from -{LARGEST} to {LARGEST}")
        if wanted is float and type(value) is int:
            value = float(value)
        object.__setattr__(settings, f.name, value)
        allowed = get_args(wanted) or (wanted,)
        if get_origin(wanted) is tuple:
            fits = isinstance(value, tuple) and all(isinstance(part, str) for part in value)
        else:
            fits = type(value) in allowed or (type(value) is int and float in allowed)
        if not fits:
            raise InputError(f"{f.name} = {_shown(value)}: must be {_type_name(wanted)}")
        if isinstance(value, str | tuple) and re.search("[\ud800-\udfff]", "".join(value)):
            # settings.toml must be
            raise InputError(f"{f.name} = {value!r:.200}: not UTF-8 text")
        choices = f.metadata["choices"]
        if choices and value not in choices:
            raise InputError(f"{f.name} = {value!r:.200}: must be one of {', '.join(choices)}")
        if value is not None:
            _check_bounds(f.name, value, f.metadata)


def _check_bounds(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    least, above, below = bounds["least"], bounds["above"], bounds["below"]
    if above is not None and not above < value < float("inf"):
        raise InputError(f"{name} = {value!r:.200}: must be a number above {above}")
    if least is not None and not least <= value < (below or float("inf")):
        limit = f" and below {below}" if below else ""
        raise InputError(f"{name} = {value!r:.200}: must be at least {least}{limit}")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python shows no number of thousands of digits
        return "a very large number"


def _type_name(wanted: Any) -> str:
    names = {
        str: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        type(None): "absent",
    }
    return (
        "a list of texts"
        if get_origin(wanted) is tuple
        else " or ".join(names[t] for t in get_args(wanted) or (wanted,))
    )
