"""Entities given as characters of a text -> BIO tags of its words."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from minibert.files import InputError

# What tools call the parts of a span: ours as a list; doccano's, Label Studio's and spaCy's.
STARTS, ENDS = ("start_offset", "start"), ("end_offset", "end")
TYPES = ("label", "labels", "type")


def as_span(span: Any, where: str, name: str) -> list[Any]:
    """One entity as [start, end, type]. Raises InputError for what is none."""
    given = span
    if isinstance(span, dict):
        span = [
            next((span[key] for key in keys if key in span), None) for keys in (STARTS, ENDS, TYPES)
        ]
        if isinstance(span[2], list) and len(span[2]) == 1:  # Label Studio's "labels"
            span[2] = span[2][0]
    if not (
        isinstance(span, list) and [type(x) for x in span] == [int, int, str] and span[2].strip()
    ):
        raise InputError(f"{where}: {name} has {given!r}, which should read [start, end, type]")
    return span


def locate(words: Sequence[str], text: str, where: str) -> list[tuple[int, int]]:
    """Where words stand in their text, (start, end) in characters. Raises InputError for one that
    does not."""
    found: list[tuple[int, int]] = []
    for word in words:
        end = found[-1][1] if found else 0
        start = text.find(word, end)
        if start < 0:
            raise InputError(
                f"{where}: the word {word!r} does not stand in the text after character {end}"
            )
        found.append((start, start + len(word)))
    return found


def span_tags(
    text: str, words: Sequence[tuple[int, int]], spans: Sequence, where: str, name: str
) -> tuple[str, ...]:
    """BIO tags of words (start, end) from entities [start, end, type], all in characters of the
    text. Raises InputError for an entity that is none."""
    tags = ["O"] * len(words)
    starts, ends = [start for start, _ in words], [end for _, end in words]
    for span in spans:
        start, end, kind = as_span(span, where, name)
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"{where}: {name} has {span!r}, which is no part of a text of "
                f"{len(text)} characters"
            )
        this = f"{where}: {name} has {span!r}, {text[start:end]!r}"
        covered = range(bisect_right(ends, start), bisect_left(starts, end))
        if not covered or words[covered[0]][0] != start or words[covered[-1]][1] != end:
            raise InputError(f"{this}: it must begin and end where words do")
        if any(tags[i] != "O" for i in covered):
            raise InputError(f"{this}, which overlaps another entity")
        for i in covered:
            tags[i] = f"I-{kind}"
        tags[covered[0]] = f"B-{kind}"
    return tuple(tags)
