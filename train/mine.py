"""python -m train.mine --data PAIRS -o FILE.jsonl: find hard negatives for pairs of an anchor and
its positive, with an encoder of ours.

A hard negative is a text that is near to the anchor and does not belong to it. Among the positives
of all other anchors, those nearest to an anchor are looked at. Some of the very nearest do belong
to it, though the data does not say so. Two things keep such false negatives out: the first ranks
can be left out (--range), and a negative must be less similar to the anchor than its positive is,
by a margin (--margin; Moreira et al. 2024, section 3, arXiv:2407.15831, where "5%" is best).
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.encoder import SentenceEncoder
from minibert.files import InputError, one_line, replacing
from minibert.program import Parser, run_program
from train.data.examples import Negatives
from train.data.read import read_source
from train.data.reading import Reading
from train.data.settle import check_fields
from train.parse import parse_pairs
from train.retrieval import search

ANCHORS = 1024  # that search at once


@dataclass(frozen=True)
class Margin:
    """How much less similar than a positive a negative must be: by so much, or by this share of the
    positive's cosine."""

    size: float
    is_share: bool = False

    @classmethod
    def parse(cls, text: str) -> "Margin":
        """0.05 is a margin of cosines, 5% a share. Raises InputError for anything else."""
        found = re.fullmatch(r"([0-9]*\.?[0-9]+)(%?)", text.strip())
        if found is None:
            raise InputError(f"--margin {text}: should read as 0.05 or 5%")
        size = float(found[1])
        return cls(size / 100, True) if found[2] else cls(size)

    def below(self, cosine: float) -> float:
        """The highest cosine that a negative may have."""
        return cosine - (abs(cosine) * self.size if self.is_share else self.size)


@dataclass(frozen=True)
class Choice:
    """Which texts become negatives: so many of the nearest, from the first to the last rank,
    counted from 1 without the anchor's own positives, and below the positive by a margin."""

    count: int
    first: int
    last: int
    margin: Margin


@dataclass(frozen=True)
class Mined:
    """A pair with its negatives, the nearest first, and each one's cosine with the anchor."""

    anchor: str
    positive: str
    cosine: float
    negatives: Mapping[str, float]


def mine(
    pairs: Sequence[tuple[str, str]], encoder: SentenceEncoder, choice: Choice
) -> Iterator[Mined]:
    """Each different pair, the pairs of an anchor one after the other, with its negatives.

    They are texts of other pairs' positives: no positive of the same anchor, and no text equal to
    the anchor. Of an anchor with several positives, the margin counts from the least similar one.
    Shows its progress. Raises InputError for vectors that are not finite.
    """
    positives: dict[str, dict[str, None]] = {}
    for anchor, positive in pairs:
        positives.setdefault(anchor, {})[positive] = None
    anchors, corpus = list(positives), list(dict.fromkeys(positive for _, positive in pairs))
    numbers = {text: number for number, text in enumerate(corpus)}
    of_anchors, of_corpus = (
        encoder.encode(texts, normalize=True, progress=True) for texts in (anchors, corpus)
    )
    if not (np.isfinite(of_anchors).all() and np.isfinite(of_corpus).all()):
        raise InputError("the encoder's vectors are not finite numbers: its weights are damaged")
    with tqdm(total=len(anchors), unit="anchor", desc="search", disable=None, leave=False) as bar:
        for start in range(0, len(anchors), ANCHORS):
            chosen = anchors[start : start + ANCHORS]
            vectors = of_anchors[start : start + ANCHORS]
            own = [[numbers[text] for text in positives[anchor]] for anchor in chosen]
            itself = [numbers.get(anchor, -1) for anchor in chosen]
            most = max(map(len, own)) + 1
            found, cosines = search(vectors, of_corpus, choice.last + most)
            for i, anchor in enumerate(chosen):
                of_own = (of_corpus[own[i]] @ vectors[i]).tolist()
                nearest = _choose(found[i], cosines[i], {*own[i], itself[i]}, min(of_own), choice)
                negatives = {corpus[number]: cosine for number, cosine in nearest}
                for number, cosine in zip(own[i], of_own, strict=True):
                    yield Mined(anchor, corpus[number], cosine, negatives)
            bar.update(len(chosen))


def _choose(
    found: NDArray[np.int64],
    cosines: NDArray[np.float32],
    excluded: set[int],
    positive: float,
    choice: Choice,
) -> list[tuple[int, float]]:
    """The negatives of an anchor, by their numbers, with their cosines."""
    ranked = [
        (number, cosine)
        for number, cosine in zip(found.tolist(), cosines.tolist(), strict=True)
        if number not in excluded
    ]
    highest = choice.margin.below(positive)
    looked_at = ranked[choice.first - 1 : choice.last]
    return [(number, cosine) for number, cosine in looked_at if cosine <= highest][: choice.count]


def read_pairs(source: str, columns: str) -> list[tuple[str, str]]:
    """The pairs of a data set's train split. columns: as the setting. Raises InputError, naming
    file and line, for what is no pair. Prints what else the pairs have, which is left out."""
    reading = Reading(columns=tuple(parse_pairs(columns, "columns").items()))
    data = read_source(source, reading)
    check_fields([data], reading)
    pairs, ignored = [], dict[str, None]()
    for example in data.splits.get("train", ()):
        if example.second is None:
            raise InputError(
                f"{example.where}: not a pair. Say which columns are: --columns "
                '"text_a=ANCHOR, text_b=POSITIVE"'
            )
        pairs.append((example.text, example.second))
        for name, value in example.labels.items():
            if not isinstance(value, Negatives):
                ignored[name] = None
            elif value.texts:
                ignored["negatives"] = None
    if not pairs:
        raise InputError(f"--data {source}: there is no training pair")
    if ignored:
        names = one_line(", ".join(ignored))
        print(f"not read: {names}. Every pair counts as an anchor and its positive")
    return pairs


def write_mined(mined: Iterator[Mined], file: Path) -> list[str]:
    """Write a line for each pair, as they come. Returns what to tell of them."""
    counts: Counter[int] = Counter()
    of_positives = of_negatives = 0.0
    example = None
    with replacing(file) as beside, beside.open("w", encoding="utf-8", newline="\n") as stream:
        for one in mined:
            record = {
                "anchor": one.anchor,
                "positive": one.positive,
                "negatives": list(one.negatives),
            }
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            counts[len(one.negatives)] += 1
            if one.negatives:
                example = example or one
                of_positives += one.cosine
                of_negatives += sum(one.negatives.values())
    num_pairs, num_negatives = counts.total(), sum(n * pairs for n, pairs in counts.items())
    told = [f"{num_pairs:,} pairs, {num_negatives:,} negatives, in {file}"]
    told += [f"{pairs:9,} pairs have {n}" for n, pairs in sorted(counts.items(), reverse=True)]
    if counts[0]:
        told.append(
            "A pair has none if no text in --range is less similar to the anchor than its positive "
            "by --margin: a wider range or a smaller margin may find some"
        )
    if example is not None:
        told += [
            "mean cosine with the anchor, of pairs that have negatives: positives "
            f"{of_positives / (num_pairs - counts[0]):.3f}, negatives "
            f"{of_negatives / num_negatives:.3f}. For example:",
            f"          {one_line(example.anchor)}",
            f"   {example.cosine:.3f}  {one_line(example.positive)}",
            *(f" - {cosine:.3f}  {one_line(text)}" for text, cosine in example.negatives.items()),
        ]
    return told


def parse_choice(count: int, ranks: str, margin: str) -> Choice:
    """The options as they are meant. Raises InputError for what makes no sense."""
    found = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", ranks.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--range {ranks}: should read as 10..100, the first at least 1")
    first, last = int(found[1]), int(found[2])
    if not 1 <= count <= last - first + 1:
        raise InputError(
            f"--count {count}: must be from 1 to {last - first + 1}, the ranks of {ranks}"
        )
    return Choice(count, first, last, Margin.parse(margin))


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = Parser(prog="python -m train.mine", description=__doc__)
    made.add_argument(
        "--data",
        required=True,
        metavar="PAIRS",
        help="pairs: a file, or a folder with a train split, in any format of train.run",
    )
    made.add_argument(
        "--columns",
        default="",
        help="which columns are the anchor and the positive, if their names do not say so: "
        '"text_a=query, text_b=answer"',
    )
    made.add_argument(
        "--model", default="minilm", help="the encoder: a folder, a Hub id, or minilm (the default)"
    )
    made.add_argument("--revision", help="a branch, tag or commit of --model on the Hub")
    made.add_argument("--count", type=int, default=5, help="the most negatives of a pair (5)")
    made.add_argument(
        "--range",
        default="1..100",
        metavar="FIRST..LAST",
        help="the ranks to look at, of the texts nearest to an anchor (1..100)",
    )
    made.add_argument(
        "--margin",
        default="5%",
        help="how much less similar than the positive a negative must be: 0.05 by so much, 5%% by "
        "this share of the positive's cosine (5%%)",
    )
    made.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE.jsonl",
        help="where to write anchor, positive and negatives, as lines that train.run reads",
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Find negatives. Returns the exit status, as `run_program`."""

    def program() -> None:
        options = parser().parse_args(arguments)
        choice = parse_choice(options.count, options.range, options.margin)
        if options.output.suffix != ".jsonl":
            raise InputError(f"--output {options.output}: the name must end in .jsonl")
        if os.path.lexists(options.output):
            raise InputError(f"{options.output} exists already: delete it, or name another file")
        pairs = read_pairs(options.data, options.columns)
        encoder = SentenceEncoder.from_pretrained(options.model, revision=options.revision)
        print("\n".join(write_mined(mine(pairs, encoder, choice), options.output)))

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
