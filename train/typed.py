"""What a JSON file holds, held against the types that it should have."""

import math
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

LARGEST = 2**63 - 1  # of whole numbers
WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
}


def misfit(value: Any, wanted: Any, name: str = "") -> str:
    """What is wrong with a value that JSON gave, in words; "" if it is of the type `wanted`.

    wanted: int, float, str, bool, None, Any; lists, dicts and unions of them; and dataclasses and
    TypedDicts, which must have all their keys and no other. name: of the value, in the words.
    """
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return ""
    if origin is UnionType:
        reasons = [misfit(value, part, name) for part in parts]
        return "" if "" in reasons else reasons[0]
    if wanted in WORDS:
        return "" if _is_of(value, wanted) else f"{name} = {value!r:.80} must be {WORDS[wanted]}"
    if origin is list:
        if not isinstance(value, list):
            return f"{name} must be a list"
        inner: list[tuple[Any, Any, str]]
        inner = [(one, parts[0], f"{name}[{i}]") for i, one in enumerate(value)]
    else:
        if not isinstance(value, dict):
            return f"{name} must be an object"
        if is_dataclass(wanted) or is_typeddict(wanted):
            hints = get_type_hints(wanted)
            if missing := sorted(hints.keys() - value.keys()):
                return f"{name or 'it'} has no {missing[0]}"
            if more := sorted(value.keys() - hints.keys()):
                return f"{name or 'it'} has {more[0]!r:.80}, which is not known"
        else:
            hints = dict.fromkeys(value, parts[1])
        start = f"{name}." if name else ""
        inner = [(one, hints[k], f"{start}{repr(k)[1:-1]:.40}") for k, one in value.items()]
    return next((found for one in inner if (found := misfit(*one))), "")


def _is_of(value: Any, wanted: type) -> bool:
    if wanted is float and type(value) is float:
        return math.isfinite(value)
    if wanted in (int, float) and type(value) is int:
        return abs(value) <= LARGEST
    return type(value) is wanted
