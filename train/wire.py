"""What processes tell one another, as bytes that hold data alone: nothing in them is executed.

PyTorch's own way to send an object pickles it. Here it is JSON, which says of each value what it
is, and after it the numbers of arrays as they are in memory.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

SIZE = 8  # bytes, in which the length of the JSON stands before it


def pack(value: Any) -> bytes:
    """A value of numbers, texts, arrays, lists, tuples, sets, mappings, named tuples and
    dataclasses, nested in any way. Raises TypeError for any other."""
    arrays: list[bytes] = []
    text = json.dumps(_told(value, arrays)).encode()
    return b"".join([len(text).to_bytes(SIZE), text, *arrays])


def unpack(data: bytes) -> Any:
    """What `pack` was given."""
    end = SIZE + int.from_bytes(data[:SIZE])
    return _meant(json.loads(data[SIZE:end]), memoryview(data)[end:])


def _told(value: Any, arrays: list[bytes]) -> Any:
    """A value as JSON: plain ones as they are, others as a list of their kind and parts."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcUS":
        start = sum(map(len, arrays))
        arrays.append(value.tobytes())
        return ["array", start, value.dtype.str, value.shape]
    if isinstance(value, Mapping):
        return ["dict", [[_told(k, arrays), _told(v, arrays)] for k, v in value.items()]]
    if is_dataclass(value) and not isinstance(value, type):
        parts = [_told(getattr(value, f.name), arrays) for f in fields(value) if f.init]
        return ["record", _name(type(value)), parts]
    if isinstance(value, tuple | list | frozenset | set):
        parts = [_told(part, arrays) for part in value]
        if hasattr(value, "_fields"):  # a named tuple
            return ["record", _name(type(value)), parts]
        return [type(value).__name__, parts]
    raise TypeError(f"{type(value).__name__} cannot be told to another process: {value!r:.80}")


def _meant(told: Any, arrays: memoryview) -> Any:
    """What `_told` told."""
    if not isinstance(told, list):
        return told
    kind, *rest = told
    if kind == "array":
        start, dtype, shape = rest
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(arrays, dtype, count, start).reshape(shape)
    if kind == "dict":
        return {_meant(k, arrays): _meant(v, arrays) for k, v in rest[0]}
    parts = [_meant(part, arrays) for part in rest[-1]]
    if kind == "record":
        return _record(rest[0])(*parts)
    return {"tuple": tuple, "list": list, "frozenset": frozenset, "set": set}[kind](parts)


def _name(record: type) -> str:
    return f"{record.__module__}:{record.__qualname__}"


def _record(name: str) -> Any:
    """The dataclass or named tuple of this name. It is looked up in a module that this process has
    imported already, as the other one had."""
    module, _, qualified = name.partition(":")
    found = getattr(sys.modules.get(module), qualified, None)
    if not (isinstance(found, type) and (is_dataclass(found) or hasattr(found, "_fields"))):
        raise TypeError(f"{name} is no dataclass or named tuple of this program")
    return found
