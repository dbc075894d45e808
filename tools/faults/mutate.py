"""Sound files made unsound: seeded changes of bytes, JSON, safetensors, TOML and lines of text."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

# What readers have stumbled over: limits of numbers, kinds of nothing, odd texts, paths.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"), 2**31,
    2**63 - 1, 2**64, 10**30, 10**400, "", " ", "0", "a", "\x00", "\n", "\x1b[31m", "\ud800",
    "\u202e", "\ufeff", "e\u0301" * 50, "a" * 300, "..", "../../outside", "/etc/passwd",
    "/dev/zero", "loop", "=1+1", "nan", "[CLS]", [], {}, [[]], {"": {}}, [None],
    ["a"] * 40, [0] * 40,
)  # fmt: skip
TEXTS = (
    "", "\t", ",", '"', "\n", "\r\n", "\x00", "\ufeff", "\x1b[2J", "=1+1", "B-", "{", "[", "]", "}",
    "nan", "1e999", "-1", "9" * 5000, "[" * 2000, "a" * 300, "\u2028", "\x85",
)  # fmt: skip

Mutator = Callable[[bytes, random.Random], bytes]


def mutate_bytes(content: bytes, dice: random.Random) -> bytes:
    """Flips, cuts, repeats, inserts or clears some bytes."""
    data = bytearray(content)
    start = dice.randrange(len(data) + 1)
    end = min(len(data), start + dice.choice((1, 2, 8, 64, 1024)))
    match dice.randrange(6):
        case 0 if start < len(data):
            data[start] ^= 1 << dice.randrange(8)
        case 1:
            del data[start:end]
        case 2:
            data[start:start] = data[start:end]
        case 3:
            data[start:start] = dice.randbytes(dice.choice((1, 4, 30)))
        case 4:
            data[start:end] = bytes(end - start)
        case _:
            del data[start:]
    return bytes(data)


def mutate_text(content: bytes, dice: random.Random) -> bytes:
    """Changes lines, or parts of a line: what a hand, a spreadsheet or a script does."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    i, j = dice.randrange(len(lines)), dice.randrange(len(lines))
    match dice.randrange(6):
        case 0:
            lines[i], lines[j] = lines[j], lines[i]
        case 1:
            lines[i:i] = [lines[j]] * dice.choice((1, 3))
        case 2:
            del lines[i]
        case 3:
            parts = re.split(r"([\t,;:= ])", lines[i])
            parts[dice.randrange(len(parts))] = dice.choice(TEXTS)
            lines[i] = "".join(parts)
        case 4:
            at = dice.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:at] + dice.choice(TEXTS) + lines[i][at:]
        case _:
            return mutate_bytes(content, dice)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def mutate_toml(content: bytes, dice: random.Random) -> bytes:
    """Changes the value, or the name, of a setting."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    settings = [i for i, line in enumerate(lines) if "=" in line]
    if not settings or dice.random() < 0.3:
        return mutate_text(content, dice)
    i, other = dice.choice(settings), dice.choice(settings)
    name, _, value = lines[i].partition("=")
    match dice.randrange(4):
        case 0:
            value = lines[other].partition("=")[2]
        case 1:
            name = lines[other].partition("=")[0]
        case _:
            value = _as_toml(dice.choice(VALUES), dice)
    lines[i] = f"{name}={value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _as_toml(value: Any, dice: random.Random) -> str:
    if dice.random() < 0.2:
        return dice.choice(("9" * 5000, "[" * 2000, "1979-05-27", "0x10", "1e999", "{a = 1}"))
    return "" if value is None else json.dumps(value)


def mutate_json(content: bytes, dice: random.Random) -> bytes:
    """Changes one value, one key or the order in a JSON document; now and then only its bytes."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return mutate_bytes(content, dice)
    if dice.random() < 0.08:
        return mutate_text(content, dice)
    return _dumped(mutate_value(document, dice))


def mutate_json_lines(content: bytes, dice: random.Random) -> bytes:
    """Changes one line of a JSON lines file as a JSON document, or the lines."""
    lines = content.split(b"\n")
    i = dice.randrange(len(lines))
    if not lines[i] or dice.random() < 0.3:
        return mutate_text(content, dice)
    lines[i] = mutate_json(lines[i], dice).replace(b"\n", b" ")
    return b"\n".join(lines)


def mutate_safetensors(content: bytes, dice: random.Random) -> bytes:
    """Changes the header as JSON, its length, or the file's bytes."""
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    match dice.randrange(5):
        case 0:
            return mutate_bytes(content, dice)
        case 1:
            claimed = dice.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1, 10**11))
            return (claimed % 2**64).to_bytes(8, "little") + header + body
        case 2:
            return content[: dice.randrange(len(content) + 1)]
        case _:
            header = mutate_json(header, dice)
            return len(header).to_bytes(8, "little") + header + body


def mutate_value(document: Any, dice: random.Random) -> Any:
    """A JSON value with one change at a random depth."""
    if not (isinstance(document, dict | list) and document) or dice.random() < 0.05:
        if dice.random() < 0.1:
            return json.loads("[" * 900 + "]" * 900)
        return dice.choice(VALUES)
    if isinstance(document, list):
        changed = list(document)
        i = dice.randrange(len(changed))
        match dice.randrange(6):
            case 0:
                del changed[i]
            case 1:
                changed.insert(i, changed[dice.randrange(len(changed))])
            case 2:
                dice.shuffle(changed)
            case _:
                changed[i] = mutate_value(changed[i], dice)
        return changed
    key, other = dice.choice(list(document)), dice.choice(list(document))
    match dice.randrange(8):
        case 0:
            return {k: v for k, v in document.items() if k != key}
        case 1:
            name = dice.choice([v for v in VALUES if isinstance(v, str)])
            return {name if k == key else k: v for k, v in document.items()}
        case 2:
            return {**document, key: document[other]}
        case 3:
            return {**document, str(dice.choice(VALUES)): dice.choice(VALUES)}
        case _:
            return {**document, key: mutate_value(document[key], dice)}


def _dumped(document: Any) -> bytes:
    return json.dumps(document).encode()
