"""How texts are split into words, in training and in prediction alike."""

import re
from collections.abc import Iterable, Sequence

from train.data.examples import DataSet

# A word or a single sign. Accents that are characters of their own belong to the letter before.
WORD = re.compile(r"[\w\u0300-\u036f]+|[^\w\s]")


def word_splitting(sets: Iterable[DataSet]) -> str:
    """How the training texts were split: "whitespace", or "punctuation" too."""
    split = [e for data in sets for e in data.splits["train"] if e.words is not None]
    by_space = all(e.text == " ".join(e.words or ()) for e in split)
    return "whitespace" if by_space else "punctuation"


def split_text(text: str, splitting: str) -> Sequence[str]:
    """The words of a text, by what `word_splitting` returned."""
    return text.split() if splitting == "whitespace" else WORD.findall(text)
