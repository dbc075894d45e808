"""Entities given as characters of a text -> BIO tags of its words."""

from collections.abc import Sequence

from minibert.files import InputError


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
    for span in spans:
        if not (
            isinstance(span, list)
            and [type(x) for x in span] == [int, int, str]
            and span[2].strip()
        ):
            raise InputError(f"{where}: {name} has {span!r}, which should read [start, end, type]")
        start, end, kind = span
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"{where}: {name} has {span!r}, which is no part of a text of "
                f"{len(text)} characters"
            )
        this = f"{where}: {name} has {span!r}, {text[start:end]!r}"
        covered = [i for i, (s, e) in enumerate(words) if s < end and e > start]
        if not covered or words[covered[0]][0] != start or words[covered[-1]][1] != end:
            raise InputError(f"{this}: it must begin and end where words do")
        if any(tags[i] != "O" for i in covered):
            raise InputError(f"{this}, which overlaps another entity")
        for i in covered:
            tags[i] = f"I-{kind}"
        tags[covered[0]] = f"B-{kind}"
    return tuple(tags)
