"""An anchor, the positive that belongs to it, and negatives that do not: how other people's files
name them.

The names are those of sentence-transformers' data sets: anchor, positive, and negative, or
negative_1, negative_2 ...; a field `negatives` may hold a list of texts.
"""

import re
from collections.abc import Iterable
from typing import Any

from minibert.files import InputError
from train.data.examples import Negatives

ANCHORS = ("anchor", "query", "question")  # of several, the first that is there
NEGATIVE = re.compile("negatives?|negative_?[0-9]+")
OTHERS = {"text", "words", "text_a"}  # where one of them is there, `positive` is a label


def is_anchored(names: Iterable[str]) -> bool:
    """Whether fields, by our names for them, are an anchor and its positive."""
    have = set(names)
    return {"anchor", "positive"} <= have and not have & OTHERS


def is_of_anchor(name: str) -> bool:
    """Whether a field of a record with an anchor holds texts."""
    return name in ("anchor", "positive") or NEGATIVE.fullmatch(name) is not None


def take_pair(record: dict[str, Any], where: str) -> Negatives:
    """Take the negatives out of a record, and call its anchor and positive text_a and text_b.
    Raises InputError, naming the field, for what is no text."""
    record["text_a"], record["text_b"] = record.pop("anchor"), record.pop("positive")
    if not isinstance(record["text_b"], str):
        raise InputError(
            f"{where}: positive = {record['text_b']!r:.80} is no text that belongs to the anchor. "
            'If it is a label, say which field is the text: --columns "text=FIELD"'
        )
    texts: list[str] = []
    for name in list(filter(NEGATIVE.fullmatch, record)):
        value = record.pop(name)
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise InputError(f"{where}: {name}: a negative must be a text, not {text!r:.80}")
            texts.append(text)
    return Negatives(tuple(text for text in texts if text.strip()))
