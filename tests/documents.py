"""Reads the fenced blocks of the project's documents, which the tests run as they are printed."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str, language: str, section: str = "") -> list[str]:
    """The blocks of a language in a document, of one section (its heading's text) or of all."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if section:
        parts = re.split(r"^##+ (.+)$", text, flags=re.MULTILINE)
        text = dict(zip(parts[1::2], parts[2::2], strict=True))[section]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def apply(diff: str, source: str) -> str:
    """A source after a change that is printed as a diff. Its old lines must stand there once."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert source.count(old) == 1, f"these lines do not stand once in the source:\n{old}"
    return source.replace(old, new)
