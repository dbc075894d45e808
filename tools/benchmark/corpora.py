"""The texts that are encoded: from SNIPS and TweetEval where a folder has them, else made from
newsroom."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from minibert.files import read_lines
from minibert.tokenizer import Tokenizer
from train.load import load_data
from train.settings import Settings

SIZES = {"short": 2000, "tweets": 1500, "mixed": 400}
SHORT, TWEET, MIXED = (5, 20), (8, 42), (4, 256)  # tokens, the least and the most


def corpora(
    tokenizer: Tokenizer, data_root: Path | None, count: int | None = None
) -> dict[str, list[str]]:
    """Short utterances, tweets, and texts of mixed lengths; no two texts of a corpus are the same.

    data_root: a folder with snips/ and tweeteval/. count: at most so many texts of each.
    Raises InputError if the folder lacks them.
    """
    sizes = {name: min(size, count or size) for name, size in SIZES.items()}
    seeded = random.Random(0)
    if data_root is not None:
        commands = distinct(read_lines(data_root / "snips" / "train" / "seq.in"))
        tweets = distinct(read_lines(data_root / "tweeteval" / "sentiment" / "train_text.txt"))
        words = stream(tweets[:5000], tokenizer, seeded)
        short, tweets = commands[: sizes["short"]], tweets[: sizes["tweets"]]
    else:
        words = stream(newsroom(), tokenizer, seeded)
        short = cut(words, [seeded.randint(*SHORT) for _ in range(sizes["short"])])
        tweets = cut(words, [seeded.randint(*TWEET) for _ in range(sizes["tweets"])])
    return {
        "short": short,
        "tweets": tweets,
        "mixed": cut(words, log_uniform(*MIXED, sizes["mixed"], seeded)),
    }


def sentences(tokenizer: Tokenizer, count: int, tokens: tuple[int, int] = SHORT) -> list[str]:
    """As many sentences as asked for, made from newsroom. tokens: the least and the most."""
    seeded = random.Random(0)
    return cut(
        stream(newsroom(), tokenizer, seeded), [seeded.randint(*tokens) for _ in range(count)]
    )


def singles(tokenizer: Tokenizer, lengths: Sequence[int]) -> dict[str, list[str]]:
    """For each length a text of about so many tokens, made from newsroom."""
    texts = cut(stream(newsroom(), tokenizer, random.Random(0)), lengths)
    return {f"{n} tokens": [text] for n, text in zip(lengths, texts, strict=True)}


def newsroom() -> list[str]:
    splits = load_data(Settings(), lambda _: None)[0].splits
    return [example.text for split in splits.values() for example in split]


def distinct(lines: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def log_uniform(least: int, most: int, count: int, seeded: random.Random) -> list[int]:
    """Random lengths, of which as many are between 4 and 8 as between 128 and 256, say."""
    return [round(math.exp(seeded.uniform(math.log(least), math.log(most)))) for _ in range(count)]


def stream(
    texts: Sequence[str], tokenizer: Tokenizer, seeded: random.Random
) -> Iterator[tuple[str, int]]:
    """The words of all texts, each with its number of tokens, without end. The texts come in a new
    order each time."""
    words = sorted({word for text in texts for word in text.split()})
    encoded = tokenizer.backend.encode_batch(words, add_special_tokens=False)
    pieces: Mapping[str, int] = dict(zip(words, map(len, encoded), strict=True))
    while True:
        for text in seeded.sample(texts, len(texts)):
            for word in text.split():
                yield word, pieces[word]


def cut(words: Iterator[tuple[str, int]], lengths: Sequence[int]) -> list[str]:
    """A text for each length: as many words as fit with [CLS] and [SEP], and at least one."""
    texts = []
    word, pieces = next(words)
    for length in lengths:
        chosen: list[str] = []
        room = length - 2
        while pieces <= room or not chosen:
            chosen.append(word)
            room -= pieces
            word, pieces = next(words)
        texts.append(" ".join(chosen))
    return texts
