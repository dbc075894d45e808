"""data.py: what is between an example and the model loses, doubles and shifts nothing.

Evidence: every target of random mixed batches is looked up again in the tokens that it belongs to;
plans are counted item by item, and their frequencies held against the formula.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from minibert.tokenizer import Tokenizer
from minibert.tokens import TruncationWarning
from train.batches import collate, prepare
from train.data.examples import Example
from train.sampling import ExampleId, plan_steps
from train.settings import Settings
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.regression import SentenceRegression
from train.tasks.similarity import PairSimilarity
from train.tasks.tagging import TokenTagging

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    *".,!'",
]

TASKS: list[Task] = [
    SentenceClassification("mood", ("bad", "good", "so")),
    TokenTagging("slots", ("O", "B-x", "I-x")),
    SentenceRegression("stars"),
    PairSimilarity("likeness"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One letter is one piece."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    return Tokenizer.from_folder(folder)


def random_examples(count: int) -> list[Example]:
    """Sentences of all kinds, each with some of the labels that it can have."""
    draw = random.Random(0)
    examples = []
    for i in range(count):
        words = [
            "".join(draw.choices(LETTERS, k=draw.randint(1, 4))) for _ in range(draw.randint(1, 9))
        ]
        labels: dict[str, Any] = {
            "mood": draw.choice(TASKS[0].labels),
            "stars": draw.uniform(0, 5),
        }
        second = None
        if i % 3 == 0:
            labels["slots"] = tuple(draw.choice(TASKS[1].labels) for _ in words)
        elif i % 3 == 1:
            labels, second = (
                {"likeness": draw.uniform(-1, 1)},
                "".join(draw.choices(LETTERS, k=draw.randint(1, 30))),
            )
        kept = {name: label for name, label in labels.items() if draw.random() < 0.7}
        examples.append(
            Example(
                " ".join(words), kept, f"line {i}", tuple(words) if i % 3 == 0 else None, second
            )
        )
    return examples


def decoded(ids: Sequence[int]) -> str:
    return " ".join(VOCABULARY[i] for i in ids)


def test_prepare_keeps_the_order_of_words_texts_and_pairs(tokenizer: Tokenizer) -> None:
    examples = [
        Example("ab c", {}, "1"),
        # a word without a piece, and one of two pre-tokens
        Example("ab c.", {}, "2", ("ab", "\u200b", "c.")),
        Example("a", {}, "3", None, "b c"),
        Example("c", {}, "4", ("c",)),
    ]
    items = prepare(examples, tokenizer, TASKS, first_number=7)
    assert [item.example for item in items] == examples
    assert [item.number for item in items] == [7, 8, 9, 10]
    assert [[decoded(part.ids) for part in item.parts] for item in items] == [
        ["[CLS] a ##b c [SEP]"],
        ["[CLS] a ##b c . [SEP]"],
        ["[CLS] a [SEP]", "[CLS] b c [SEP]"],
        ["[CLS] c [SEP]"],
    ]
    assert items[1].parts[0].words == [None, 0, 0, 2, 2, None]
    assert prepare([], tokenizer, TASKS) == []


def test_what_is_too_long_is_cut_with_a_warning(tokenizer: Tokenizer) -> None:
    short = Tokenizer(tokenizer.backend, max_length=5)
    with pytest.warns(TruncationWarning, match="1 of 2 texts are longer than 5 tokens"):
        items = prepare([Example("a b c d e", {}, ""), Example("a", {}, "")], short, TASKS)
    assert [(decoded(item.parts[0].ids), item.parts[0].lost) for item in items] == [
        ("[CLS] a b c [SEP]", 2),
        ("[CLS] a [SEP]", 0),
    ]


def test_every_target_of_a_batch_is_where_its_tokens_are(tokenizer: Tokenizer) -> None:
    items = prepare(random_examples(300), tokenizer, TASKS)
    random.Random(1).shuffle(items)
    seen: Counter[str] = Counter()
    for start in range(0, len(items), 25):
        chosen = items[start : start + 25]
        batch = collate(chosen, TASKS)

        # The sentences lie one after the other, shortest first, and nothing else is there.
        parts = [chosen[i].parts[part] for i, part in batch.sequences]
        assert batch.input_ids.tolist() == [token for part in parts for token in part.ids]
        assert batch.input_ids.dtype == torch.int64
        assert batch.token_type_ids is None
        assert sorted(batch.sequences) == [
            (i, p) for i, item in enumerate(chosen) for p in range(len(item.parts))
        ]
        lengths = [length for count, length in batch.layout.runs for _ in range(count)]
        assert lengths == [len(part.ids) for part in parts] == sorted(lengths)
        assert batch.starts == [sum(lengths[:row]) for row in range(len(lengths))]
        assert all(
            batch.sequences[row] == (i, p)
            for i, rows in enumerate(batch.rows)
            for p, row in enumerate(rows)
        )

        # What each task must find, in the items' order.
        rows = [row for row, i in enumerate(chosen) if "mood" in i.example.labels]
        assert batch.positions["mood"].tolist() == [[batch.rows[i][0]] for i in rows]
        moods = [TASKS[0].labels[value] for value in batch.targets["mood"].tolist()]
        assert moods == [chosen[i].example.labels["mood"] for i in rows]

        scored = [i for i, item in enumerate(chosen) if "stars" in item.example.labels]
        assert batch.positions["stars"].tolist() == [[batch.rows[i][0]] for i in scored]
        stars = torch.tensor([chosen[i].example.labels["stars"] for i in scored])
        assert torch.equal(batch.targets["stars"], stars)
        assert stars.dtype == torch.float32

        tagged = [item for item in chosen if "slots" in item.example.labels]
        words = [word for item in tagged for word in item.example.words or ()]
        assert [
            VOCABULARY[token] for token in batch.input_ids[batch.positions["slots"]].tolist()
        ] == [w[0] for w in words]
        tags = [TASKS[1].labels[value] for value in batch.targets["slots"].tolist()]
        assert tags == [tag for item in tagged for tag in item.example.labels["slots"]]  # type: ignore[union-attr]

        pairs = [i for i, item in enumerate(chosen) if "likeness" in item.example.labels]
        assert batch.positions["likeness"].tolist() == [list(batch.rows[i]) for i in pairs]
        assert batch.positions["likeness"].shape == (len(pairs), 2)
        for (first, second), i in zip(batch.positions["likeness"].tolist(), pairs, strict=True):
            spans = [
                slice(batch.starts[row], batch.starts[row] + lengths[row])
                for row in (first, second)
            ]
            assert [batch.input_ids[span].tolist() for span in spans] == [
                part.ids for part in chosen[i].parts
            ]
        seen.update({name: len(values) for name, values in batch.targets.items()})
    assert min(seen[task.name] for task in TASKS) > 40  # all of it was there to be looked at


def test_a_task_without_a_label_in_the_batch_is_not_there(tokenizer: Tokenizer) -> None:
    examples = [
        Example("a", {"mood": "bad", "other": "x"}, ""),
        Example("b", {}, ""),
        # labelled, but its only word has no piece
        Example("\u200b", {"slots": ("B-x",)}, "", ("\u200b",)),
    ]
    batch = collate(prepare(examples, tokenizer, TASKS), TASKS)
    assert set(batch.positions) == set(batch.targets) == {"mood"}
    assert batch.input_ids[torch.tensor(batch.starts)].tolist() == [VOCABULARY.index("[CLS]")] * 3
    assert collate(batch.items, []).positions == {}


def test_a_place_is_a_words_first_piece(tokenizer: Tokenizer) -> None:
    (item,) = prepare([Example("", {}, "", ("ab", "\u200b", "c.d", "e"))], tokenizer, TASKS)
    assert item.parts[0].first_pieces == {0: 1, 2: 3, 3: 6}
    assert list(item.parts[0].first_pieces) == [0, 2, 3]


# The plan of an epoch

SAMPLINGS = ("proportional", "temperature", "uniform", "round-robin")
SIZES = (100, 7, 33)


def plan_epoch(
    sizes: Sequence[int],
    batch_size: int,
    sampling: str,
    temperature: float,
    seed: int,
    lengths: Sequence[Sequence[int]] | None = None,
) -> list[list[ExampleId]]:
    """The batches of one epoch, one a step; its number takes the place of the seed."""
    settings = Settings(
        batch_size=batch_size,
        sampling=sampling,
        temperature=temperature,
        group_by_length=lengths is not None,
    )
    return [batch for (batch,) in plan_steps(sizes, settings, seed, lengths)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_plan_follows_from_its_arguments_and_the_seed_changes_it(sampling: str) -> None:
    plan = plan_epoch(SIZES, 8, sampling, 2.0, seed=3)
    assert plan_epoch(SIZES, 8, sampling, 2.0, seed=3) == plan
    assert plan_epoch(SIZES, 8, sampling, 2.0, seed=4) != plan
    state = torch.get_rng_state()
    plan_epoch(SIZES, 8, sampling, 2.0, seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # dropout's random numbers are not touched


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_batches_are_of_one_source_full_but_for_its_last(sampling: str) -> None:
    plan = plan_epoch(SIZES, 8, sampling, 2.0, seed=0)
    assert len(plan) == 13 + 1 + 5
    taken: dict[int, list[list[int]]] = {0: [], 1: [], 2: []}
    for batch in plan:
        (source,) = {source for source, _ in batch}
        taken[source].append([number for _, number in batch])
    for source, size in enumerate(SIZES):
        # Each pass over a source takes each of its items once, also where it runs out and begins
        # anew.
        a_pass = [min(8, size - start) for start in range(0, size, 8)]
        assert [len(batch) for batch in taken[source]] == [
            a_pass[i % len(a_pass)] for i in range(len(taken[source]))
        ]
        for start in range(0, len(taken[source]) - len(a_pass) + 1, len(a_pass)):
            numbers = [
                number for batch in taken[source][start : start + len(a_pass)] for number in batch
            ]
            assert sorted(numbers) == list(range(size))


def test_proportional_takes_each_item_exactly_once_in_a_new_order() -> None:
    plans = [plan_epoch(SIZES, 8, "proportional", 2.0, seed) for seed in range(3)]
    places = sorted((source, number) for source, size in enumerate(SIZES) for number in range(size))
    for plan in plans:
        assert sorted(place for batch in plan for place in batch) == places
    assert len({str(plan) for plan in plans}) == 3
    turns = [batch[0][0] for batch in plans[0]]
    assert turns != sorted(turns)  # sources are mixed


def test_grouped_batches_are_of_similar_length_and_new_in_every_epoch() -> None:
    seeded = random.Random(0)
    sizes = (1000, 30)
    lengths = [[seeded.randint(4, 60) for _ in range(size)] for size in sizes]
    places = sorted((source, number) for source, size in enumerate(sizes) for number in range(size))
    plans = [plan_epoch(sizes, 8, "proportional", 2.0, seed, lengths) for seed in range(2)]
    for plan in plans:
        assert sorted(place for batch in plan for place in batch) == places
        spreads = [
            max(found) - min(found) for b in plan if len(found := [lengths[s][n] for s, n in b]) > 1
        ]
        assert np.mean(spreads) < 4  # of 56; at random about 44
        means = [np.mean([lengths[s][n] for s, n in batch]) for batch in plan if batch[0][0] == 0]
        # batches of all lengths, in any order
        assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3
    large = [
        {pair for b in plan if b[0][0] == 0 for pair in combinations(sorted(b), 2)}
        for plan in plans
    ]
    # at random 1%, and 50% were all sorted as a whole
    assert len(large[0] & large[1]) < 0.2 * len(large[0])
    # which source is next does not depend on it
    assert [b[0][0] for b in plans[0]] == [
        b[0][0] for b in plan_epoch(sizes, 8, "proportional", 2.0, 0)
    ]


def test_round_robin_takes_turns() -> None:
    assert [batch[0][0] for batch in plan_epoch(SIZES, 8, "round-robin", 2.0, seed=0)] == [
        i % 3 for i in range(19)
    ]


@pytest.mark.parametrize(
    ("sampling", "temperature", "powers"),
    [
        ("uniform", 2.0, 0.0),
        ("temperature", 1.0, 1.0),
        ("temperature", 2.0, 0.5),
        ("temperature", 5.0, 0.2),
    ],
)
def test_sources_are_drawn_as_often_as_the_formula_says(
    sampling: str, temperature: float, powers: float
) -> None:
    sizes = (4000, 1000, 250)
    plan = plan_epoch(sizes, 1, sampling, temperature, seed=0)
    counts = Counter(batch[0][0] for batch in plan)
    weights = [size**powers for size in sizes]
    for source, weight in enumerate(weights):
        share = weight / sum(weights)
        deviation = (share * (1 - share) / len(plan)) ** 0.5
        assert abs(counts[source] / len(plan) - share) < 4 * deviation


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_an_extreme_temperature_still_draws(temperature: float) -> None:
    counts = Counter(
        batch[0][0] for batch in plan_epoch((400, 100), 1, "temperature", temperature, seed=0)
    )
    assert counts[0] == 500 if temperature < 1 else 200 < counts[0] < 300


def test_one_source_smaller_than_a_batch() -> None:
    for sampling in SAMPLINGS:
        assert [sorted(batch) for batch in plan_epoch([3], 8, sampling, 2.0, seed=0)] == [
            [(0, 0), (0, 1), (0, 2)]
        ]


def test_steps_leave_no_batch_out() -> None:
    plan = plan_epoch(SIZES, 8, "proportional", 2.0, seed=0)
    for accumulate in (1, 4, 19, 100):
        settings = Settings(batch_size=8, accumulate=accumulate)
        steps = list(plan_steps(SIZES, settings, epoch=0))
        assert [batch for step in steps for batch in step] == plan
        assert all(len(step) == accumulate for step in steps[:-1])
        assert 0 < len(steps[-1]) <= accumulate
