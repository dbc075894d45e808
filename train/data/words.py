"""How texts are split into words, in training and in prediction alike."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from train.data.examples import DataSet

# Accents and vowel signs that are characters of their own belong to the letter before; so do the
# joiners of Persian and Hindi, and the soft hyphen.
MARKS = "\u00ad\u200c\u200d" + "".join(
    chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M"
)
SIGN = rf"(?:[^\w\s{MARKS}][{MARKS}]*)"
WORD = re.compile(rf"[\w{MARKS}]+|{SIGN}")  # a word or a single sign
# What BERT's own tokenizer makes words of: punctuation and Chinese characters (Google's
# tokenization.py, _is_punctuation and _is_chinese_char).
SINGLE = (
    r"!-/:-@\[-`{-~"
    + "".join(
        chr(code) for code in range(0x80, 0x10000) if unicodedata.category(chr(code))[0] == "P"
    )
    + "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    + "\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f"
)
WORD_OF_BERT = re.compile(rf"[{SINGLE}]|[^\s{SINGLE}]+")
CHARACTER = re.compile(r"\S[\u0300-\u036f]*")
EDGES = re.compile(rf"({SIGN}*)(.*?)({SIGN}*)")  # signs, a word that may hold some, signs
# Scripts without spaces between words: Thai to Burmese, Khmer, kana, Chinese characters.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)
ENOUGH = 0.95  # the share of the training words that a way of splitting must leave whole
FINEST_FIRST = ("punctuation", "edges", "whitespace")


def word_splitting(sets: Iterable[DataSet]) -> str:
    """How a raw text is to be split so that its words are like those of the training data.

    "characters", if the data tags the characters of a language without spaces. Else the finest of
    these that leaves nearly all training words whole: "punctuation" (every sign is a word),
    "edges" (only signs at the ends of words are), "whitespace".
    """
    sentences = [e.words for data in sets for e in data.splits["train"] if e.words is not None]
    words = [word for sentence in sentences for word in sentence]
    if not words:
        return "whitespace"
    if by_character(sentences):
        return "characters"
    return next(
        splitting
        for splitting in FINEST_FIRST
        if sum(len(split_text(word, splitting)) == 1 for word in words) >= ENOUGH * len(words)
        or splitting == "whitespace"
    )


def split_text(text: str, splitting: str) -> Sequence[str]:
    """The words of a text, by what `word_splitting` returned; or "as BERT": as its own tokenizer
    splits them, so that its pieces are those of the whole text."""
    if splitting == "characters":
        return CHARACTER.findall(text)
    if splitting == "punctuation":
        return WORD.findall(text)
    if splitting == "as BERT":
        return WORD_OF_BERT.findall(text)
    words = text.split()
    return words if splitting == "whitespace" else [part for w in words for part in _edges(w)]


def by_character(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether the words of some sentences are single characters of a language without spaces."""
    words = [word for sentence in sentences for word in sentence]
    single = sum(CHARACTER.fullmatch(word) is not None for word in words)
    unspaced = sum(UNSPACED.match(word) is not None for word in words)
    return single >= ENOUGH * len(words) and unspaced > len(words) / 2


def between_words(sentences: Sequence[Sequence[str]]) -> str:
    """What to put between the words of sentences that are only given as words: a space, or nothing
    if they are characters of a language without spaces."""
    return "" if by_character(sentences) else " "


def _edges(word: str) -> list[str]:
    before, middle, after = EDGES.fullmatch(word).groups()  # type: ignore[union-attr]
    return [*re.findall(SIGN, before), *([middle] if middle else ()), *re.findall(SIGN, after)]
