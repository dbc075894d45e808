"""train/datasets/newsroom: the data set is what its card says, and its splits share no sentence in
other words.

Two sentences count as near-duplicates here if their sets of lower-case words overlap by half or
more (Jaccard), or if they share a run of six words. One formula of the press, "Correction: an
earlier version of this article said", stands in several sentences that share nothing else, and is
left out of the runs.
"""

import json
import re
import statistics
from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

import pytest

from train.data.read import OURS
from train.data.words import WORD
from train.load import load_data
from train.settings import Settings

SIZES = {"train": 700, "dev": 150, "test": 150}
TOPICS = {"sports", "technology", "politics", "business", "science"}
TYPES = {"person", "organisation", "location", "event"}
FORMULA = ["correction", "an", "earlier", "version", "of", "this", "article", "said"]


@pytest.fixture(scope="module")
def newsroom() -> dict[str, list[dict[str, Any]]]:
    """The records of each split, as they stand in the files."""
    return {
        split: [
            json.loads(line)
            for line in (OURS / "newsroom" / f"{split}.jsonl").open(encoding="utf-8")
        ]
        for split in SIZES
    }


@pytest.fixture(scope="module")
def texts(newsroom: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """The split and the text of every sentence."""
    return [(split, record["text"]) for split, records in newsroom.items() for record in records]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_sizes_topics_and_types(newsroom: dict[str, list[dict[str, Any]]]) -> None:
    assert {split: len(records) for split, records in newsroom.items()} == SIZES
    for split, records in newsroom.items():
        assert all(set(record) == {"text", "topic", "entities"} for record in records)
        assert Counter(record["topic"] for record in records) == dict.fromkeys(
            TOPICS, SIZES[split] // 5
        )
        types = Counter(kind for record in records for _, _, kind in record["entities"])
        assert set(types) == TYPES
        assert min(types.values()) >= 30
        without = sum(not record["entities"] for record in records) / len(records)
        assert 0.1 < without < 0.2  # "about one sentence in seven"


def test_every_span_is_of_whole_words_and_only_the_name(
    newsroom: dict[str, list[dict[str, Any]]],
) -> None:
    spans = 0
    for record in (record for records in newsroom.values() for record in records):
        text = record["text"]
        places = [match.span() for match in WORD.finditer(text)]
        starts, ends = ({place[side] for place in places} for side in (0, 1))
        taken = 0
        for start, end, _ in sorted(record["entities"]):
            assert start in starts, (text, start)
            assert end in ends, (text, end)
            assert start >= taken, (text, start)  # no two overlap
            name = text[start:end]
            assert not re.match(r"(?i)(the|a|an)\b", name), (text, name)
            assert not re.search(r"['\u2019]s?$", name), (text, name)
            assert name == name.strip()
            taken, spans = end, spans + 1
    assert spans == 426 + 396 + 340 + 174 + 88 + 87 + 82 + 32 + 97 + 79 + 72 + 40


def test_it_reads_as_a_sentence_and_a_tagging_task() -> None:
    said: list[str] = []
    (data,) = load_data(Settings(), said.append)
    assert [text.partition(":")[0] for text in said] == ["topic", "entities"]  # their counts
    assert {split: len(examples) for split, examples in data.splits.items()} == SIZES
    for example in (example for examples in data.splits.values() for example in examples):
        assert set(example.labels) == {"topic", "entities"}
        assert example.labels["topic"] in TOPICS


def test_no_sentence_stands_twice(texts: list[tuple[str, str]]) -> None:
    assert len({" ".join(words(text)) for _, text in texts}) == len(texts) == 1000


def test_no_two_sentences_have_half_their_words_in_common(texts: list[tuple[str, str]]) -> None:
    sets = [(text, frozenset(words(text))) for _, text in texts]
    closest = max(len(a & b) / len(a | b) for (_, a), (_, b) in combinations(sets, 2))
    # 0.27, as it is: "Can a keyboard really be worth 600 euros?", "Can a robot referee be booed?"
    assert closest < 0.5


def test_no_run_of_six_words_stands_in_two_splits(texts: list[tuple[str, str]]) -> None:
    where: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for split, text in texts:
        found = words(text)
        for i in range(len(found) - 5):
            where[tuple(found[i : i + 6])].add(split)
    formulas = {tuple(FORMULA[i : i + 6]) for i in range(len(FORMULA) - 5)}
    assert {run for run, splits in where.items() if len(splits) > 1} <= formulas


def test_lengths_and_beginnings_vary(texts: list[tuple[str, str]]) -> None:
    lengths = [len(text.split()) for _, text in texts]
    assert (min(lengths), max(lengths)) == (3, 40)
    assert statistics.quantiles(lengths, n=4) == [10, 18, 24]
    openings = Counter(tuple(words(text)[:3]) for _, text in texts)
    assert max(openings.values()) <= 4
    assert len(openings) > 950


def test_the_card_says_what_it_is_and_under_which_licence() -> None:
    card = (OURS / "newsroom" / "README.md").read_text(encoding="utf-8")
    assert "CC0 1.0" in card
    assert all(
        word in card for word in (*TOPICS, *TYPES, *(f"({size})" for size in SIZES.values()))
    )
