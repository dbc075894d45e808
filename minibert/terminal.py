"""How results look: aligned and coloured in a terminal, plain in a pipe or a file."""

import os
import sys
import unicodedata
from collections.abc import Sequence

# ECMA-48's numbers of looks, which every terminal knows.
LOOKS = {"strong": 1, "faint": 2, "number": 36}


def is_coloured() -> bool:
    """Whether standard output is a terminal that shows colours. It does not if TERM is "dumb", or
    if NO_COLOR is not empty (no-color.org)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def painted(text: str, look: str) -> str:
    """A text in one of LOOKS, where standard output shows them."""
    return f"\x1b[{LOOKS[look]}m{text}\x1b[0m" if is_coloured() else text


def aligned(texts: Sequence[str]) -> list[str]:
    """Texts of one column: in a terminal, with spaces up to the widest; else as they are."""
    if not sys.stdout.isatty():
        return list(texts)
    widest = max(map(width, texts), default=0)
    return [text + " " * (widest - width(text)) for text in texts]


def width(text: str) -> int:
    """How many cells of a terminal a text takes: Chinese characters, say, have two, and accents
    that stand after their letter none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
