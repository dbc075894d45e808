"""Pairs of texts: which kind reads them, what it reads, and what a run on them leaves.

Evidence: token ids and types as BERT's paper draws them; predictions of a finished run against
those of the same run opened again; logits in tests/parity/test_heads.py.
"""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from minibert import BertConfig, InputError, SentenceEncoder
from minibert.model import Bert
from minibert.tokenizer import Tokenizer
from tests.training import VOCABULARY, World, make_world, metrics_of, pair, write_splits
from train.batches import prepare
from train.data.examples import DataSet, Example
from train.model import JointModel
from train.predict import main
from train.run import train
from train.settings import Settings
from train.tasks import build_tasks
from train.tasks.base import Task
from train.tasks.pairs import PairClassification, PairClassificationApart
from train.tasks.similarity import PairSimilarity


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with a class and a score of 0.5 to 4.5."""

    def make(dice: random.Random) -> dict[str, Any]:
        record = pair(dice)
        cosine = record.pop("cosine")
        return record | {"relation": "same" if cosine > 0.5 else "other", "likeness": 5 * cosine}

    return write_splits(tmp_path_factory.mktemp("related"), make, 26, 8)


def tasks_of(pairs: str = "", **labels: Any) -> list[Task]:
    """The tasks of two pairs whose labels are given as lists."""
    examples = [
        Example("a", dict(zip(labels, values, strict=True)), "line", second="b")
        for values in zip(*labels.values(), strict=True)
    ]
    return build_tasks([DataSet("x", {"train": examples})], Settings(pairs=pairs))


@pytest.mark.parametrize(
    ("pairs", "kinds"),
    [
        ("", ["pair", "similarity"]),
        ("together", ["pair", "pair regression"]),
        ("apart", ["pair apart", "similarity"]),
        ("relation=apart", ["pair apart", "similarity"]),
        ("apart, relation=together, score=together", ["pair", "pair regression"]),
    ],
)
def test_the_settings_say_how_pairs_are_read(pairs: str, kinds: list[str]) -> None:
    tasks = tasks_of(pairs, relation=["x", "y"], score=[0.5, 1.0])
    assert [task.kind for task in tasks] == kinds
    assert all(task.reads_pairs for task in tasks)
    # What trains the vectors of sentences says how they are pooled.
    assert [task.vector_pooling for task in tasks] == [
        "mean" if task.kind in ("pair apart", "similarity") else None for task in tasks
    ]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("side by side", "pairs = 'side by side': 'side by side' is not together or apart"),
        ("relation=joined", "pairs = 'relation=joined': 'joined' is not together or apart"),
        ("other=apart", "pairs = 'other=apart': there is no task 'other'; the tasks are relation"),
    ],
)
def test_settings_that_say_something_else(pairs: str, message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        tasks_of(pairs, relation=["x", "y"])


def test_single_texts_are_not_read_as_pairs() -> None:
    train_set = [Example("a", {"mood": "x"}, "line")]
    with pytest.raises(InputError, match="pairs = 'mood=apart': the task mood has single texts"):
        build_tasks([DataSet("x", {"train": train_set})], Settings(pairs="mood=apart"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    return Tokenizer.from_folder(folder)


def test_together_is_one_sequence_whose_longer_text_is_cut(tokenizer: Tokenizer) -> None:
    short = Tokenizer(tokenizer.backend, max_length=8)
    task = PairClassification("relation", ("x", "y"))
    examples = [
        Example("play now", {}, "", ("play", "now"), "sing"),  # words are for other tasks
        Example("play the music in rome now please", {}, "", None, "sing now"),
        Example("play", {}, "", None, None),
    ]
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 8 tokens"):
        whole, cut, single = prepare(examples, short, [task])
    (tokens,) = whole.parts
    shown = [VOCABULARY[i] for i in tokens.ids]
    assert shown == ["[CLS]", "play", "now", "[SEP]", "sing", "[SEP]"]
    assert tokens.type_ids == [0, 0, 0, 0, 1, 1]
    (tokens,) = cut.parts
    shown = [VOCABULARY[i] for i in tokens.ids]
    assert shown == ["[CLS]", "play", "the", "[UNK]", "[SEP]", "sing", "now", "[SEP]"]
    assert tokens.lost == 4
    assert single.parts == ()  # a pair is asked for


def test_apart_is_two_sequences(tokenizer: Tokenizer) -> None:
    task = PairClassificationApart("relation", ("x", "y"))
    (item,) = prepare([Example("play now", {}, "", None, "sing")], tokenizer, [task])
    assert [[VOCABULARY[i] for i in part.ids] for part in item.parts] == [
        ["[CLS]", "play", "now", "[SEP]"],
        ["[CLS]", "sing", "[SEP]"],
    ]


def test_a_model_without_token_types_cannot_tell_two_texts() -> None:
    config = BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        type_vocab_size=1,
    )
    bert = Bert(config)
    JointModel(bert, [PairClassificationApart("relation", ("x", "y"))])
    with pytest.raises(InputError, match="the task relation reads two texts in one sequence"):
        JointModel(bert, [PairClassification("relation", ("x", "y"))])


@pytest.mark.parametrize(
    ("scores", "scaling"),
    [
        ([-1.0, 0.2, 1.0], (0.0, 1.0)),
        ([0.0, 0.1], (0.0, 1.0)),  # cosines
        ([0.0, 5.0], (0.0, 5.0)),
        ([1.0, 2.5, 5.0], (1.0, 4.0)),
        ([-2.0, 0.0], (-2.0, 2.0)),
        ([3.0, 3.0], (3.0, 1.0)),
    ],
)
def test_scores_that_are_no_cosines_are_scaled(
    scores: list[float], scaling: tuple[float, float], tokenizer: Tokenizer
) -> None:
    (task,) = tasks_of(likeness=scores)
    assert isinstance(task, PairSimilarity)
    assert (task.offset, task.scale) == scaling
    described = task.describe()
    assert (described["low"], described["high"]) == (min(scores), max(scores))
    items = prepare(
        [Example("play", {"likeness": s}, "", None, "sing") for s in scores], tokenizer, [task]
    )
    cosines = [target for item in items for target in task.targets(item)]
    assert all(-1 <= cosine <= 1 for cosine in cosines)
    if max(scores) > 1:
        assert min(cosines) == 0
        assert max(cosines) == (1 if min(scores) < max(scores) else 0)


@pytest.mark.parametrize("pairs", ["together", "apart"])
def test_a_run_on_pairs(
    world: World, related: Path, tmp_path: Path, pairs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes and scores of the same pairs, jointly; and what is predicted afterwards."""
    train(world.settings(related, pairs=pairs), tmp_path / "run")
    kinds = ["pair", "pair regression"] if pairs == "together" else ["pair apart", "similarity"]
    printed = capsys.readouterr().out
    assert f"relation ({kinds[0]}, 2 labels), likeness ({kinds[1]}, 0.5 to 4.5)" in printed
    metrics = metrics_of(tmp_path / "run")["test"]
    if pairs == "apart":  # the folder is a sentence encoder whose vectors were trained
        encoder = SentenceEncoder.from_pretrained(tmp_path / "run" / "model")
        assert encoder.settings.pooling == "mean"

    lines = (related / "test.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    texts = [f"{record['text_a']}\t{record['text_b']}" for record in records]
    assert main([str(tmp_path / "run"), *texts, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    right = [
        one["relation"]["label"] == record["relation"]
        for one, record in zip(found, records, strict=True)
    ]
    assert sum(right) / len(right) == metrics["relation"]["accuracy"]
    errors = [
        abs(one["likeness"]["score"] - record["likeness"])
        for one, record in zip(found, records, strict=True)
    ]
    wanted = metrics["likeness"]["mean_absolute_error"]
    assert sum(errors) / len(errors) == pytest.approx(wanted, rel=1e-4)
    for one in found:
        scores = one["relation"]["scores"]
        assert scores.keys() == {"same", "other"}
        assert sum(scores.values()) == pytest.approx(1)
        assert one["relation"]["probability"] == max(scores.values())
    assert main([str(tmp_path / "run"), "only one text"]) == 2
    assert "text 1 is one text, and no task here reads that" in capsys.readouterr().err
