"""Sentence vectors: anchors with positives and negatives, texts read twice, the order of scores.

Evidence: examples as other people's files have them; the loss against one written out with loops,
texts that occur twice included; the measures against brute force and against the formula of the
paper's own program; a run that was cut off against one that was not, bit for bit. The losses
against sentence-transformers stand in tests/parity/test_vectors.py.
"""

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minibert import InputError, SentenceEncoder
from minibert.heads import normalize, pool
from tests.training import (
    FILLERS,
    TRIGGERS,
    World,
    make_world,
    metrics_of,
    outcome,
    write_json_lines,
    write_splits,
)
from train import fit as fit_module
from train.batches import collate, prepare
from train.data.columns import from_fields
from train.data.examples import DataSet, Example, Negatives
from train.data.fingerprint import fingerprint
from train.data.reading import Reading
from train.data.splits import cut_dev
from train.evaluate import main as evaluate_main
from train.evaluation import predict
from train.load import load_data
from train.model import JointModel
from train.optimizer import rate_factor
from train.predict import main as predict_main
from train.run import main, train
from train.settings import Settings
from train.tasks import build_tasks
from train.tasks.base import Task
from train.tasks.contrastive import Contrastive
from train.tasks.records import Prediction
from train.tasks.simcse import SimCSE
from train.tasks.similarity import PairOrder

SECRET = dict(zip([w for words in TRIGGERS.values() for w in words], FILLERS, strict=False))


def triplet(dice: random.Random) -> dict[str, Any]:
    """Three words, the three that stand for them in a secret language, and none to two negatives in
    which one word is another."""
    words = dice.sample(list(SECRET), 3)
    others = dice.sample([word for word in SECRET if word not in words], dice.randint(0, 2))
    return {
        "anchor": " ".join(words),
        "positive": " ".join(SECRET[word] for word in reversed(words)),
        "negatives": [" ".join(SECRET[word] for word in (*words[:2], other)) for other in others],
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data") / "triplets", triplet, 60, 12)


# What is read as an anchor and its positive


def read(record: dict[str, Any], columns: str = "") -> tuple[Example, list[str]]:
    told: list[str] = []
    reading = Reading.of(Settings(columns=columns), told.append)
    return from_fields(record, "line 1", reading), told


TOGETHER = "anchor and positive are read as texts that belong together"


@pytest.mark.parametrize(
    ("record", "columns", "negatives", "told"),
    [
        ({"anchor": "a", "positive": "p"}, "", (), []),
        ({"anchor": "a", "positive": "p", "negative": "n"}, "", ("n",), []),
        (
            {"query": "a", "positive": "p", "negative_1": "n", "negative_2": "o"},
            "",
            ("n", "o"),
            ["query is read as anchor"],
        ),
        (
            {"question": "a", "positive": "p", "negatives": ["n", " ", "o"]},
            "",
            ("n", "o"),
            ["question is read as anchor"],
        ),
        ({"definition": "a", "example": "p"}, "anchor=definition, positive=example", (), []),
        ({"query": "a", "answer": "p"}, "positive=answer", (), ["query is read as anchor"]),
    ],
)
def test_fields_of_anchors(
    record: dict[str, Any], columns: str, negatives: tuple[str, ...], told: list[str]
) -> None:
    example, found = read(record, columns)
    assert (example.text, example.second) == ("a", "p")
    assert example.labels == {"positive": Negatives(negatives)}
    assert found == [*told, TOGETHER]


@pytest.mark.parametrize(
    ("record", "columns", "text", "second"),
    [
        ({"text": "t", "positive": 1}, "", "t", None),
        ({"sentence": "t", "positive": "yes"}, "", "t", None),
        ({"sentence1": "t", "sentence2": "u", "positive": 0}, "", "t", "u"),
        ({"question": "t", "positive": 1}, "text=question", "t", None),
    ],
)
def test_a_positive_without_an_anchor_is_a_label(
    record: dict[str, Any], columns: str, text: str, second: str | None
) -> None:
    example, told = read(record, columns)
    assert (example.text, example.second) == (text, second)
    assert example.labels == {"positive": record["positive"]}
    assert TOGETHER not in told


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"question": "t", "positive": True},
            "line 1: positive = True is no text that belongs to the anchor. If it is a label, say "
            'which field is the text: --columns "text=FIELD"',
        ),
        (
            {"anchor": "t", "positive": "p", "negatives": ["n", 3]},
            "line 1: negatives: a negative must be a text, not 3",
        ),
        ({"anchor": "t", "positive": " "}, "line 1: a text must be a string that is not blank"),
        ({"anchor": "t"}, "line 1: needs text, or words, or text_a and text_b, or anchor and pos"),
    ],
)
def test_what_is_no_text_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        read(record)


def test_tables(tmp_path: Path) -> None:
    """Texts that look like numbers are texts; an empty cell is no negative; a cell may hold a list;
    another column is a label beside them."""
    (tmp_path / "one.csv").write_text(
        "query,positive,negative_1,negative_2,score\n"
        + "".join(f"q{i},{i},,007,0.{i}\n" for i in range(12))
    )
    (tmp_path / "two.tsv").write_text(
        "anchor\tpositive\tnegatives\n"
        + "".join(f"b{i}\tp{i}\t{json.dumps(['n', str(i)])}\n" for i in range(12))
    )
    one, two = load_data(
        Settings(data=(str(tmp_path / "one.csv"), str(tmp_path / "two.tsv")), share=("positive",)),
        lambda text: None,
    )
    example = one.splits["train"][0]
    number = example.text.removeprefix("q")
    assert example.second == number
    assert example.labels == {"positive": Negatives(("007",)), "score": float(f"0.{number}")}
    example = two.splits["train"][0]
    number = example.text.removeprefix("b")
    assert example.labels == {"positive": Negatives(("n", number))}


def test_rows_of_one_anchor_stay_on_one_side() -> None:
    examples = [
        Example(f"a{i // 4}", {"positive": Negatives()}, "", second=f"p{i}") for i in range(40)
    ]
    kept, dev = cut_dev(examples, 0, lambda example: ())
    assert len(dev) == 4
    assert not {e.text for e in kept} & {e.text for e in dev}


def test_the_fingerprint_sees_negatives() -> None:
    """Else a resumed run would go on with other data."""

    def of(*negatives: str) -> dict[str, Any]:
        example = Example("a", {"positive": Negatives(negatives)}, "", second="p")
        return fingerprint([DataSet("x", {"train": [example]})])

    assert of("n") == of("n")
    assert of("n") != of("m")


# The loss


def task_of(examples: Sequence[Example], **changes: Any) -> Task:
    (task,) = build_tasks([DataSet("x", {"train": examples})], Settings(**changes))
    return task


def anchored(anchor: str, positive: str, *negatives: str) -> Example:
    return Example(anchor, {"positive": Negatives(negatives)}, "", second=positive)


TWICE = [  # one positive of two anchors, an anchor among the positives and negatives, a negative
    # that is a positive, and "Sing" for "sing"
    anchored("play songs", "sing", "rain"),
    anchored("hear the days", "Sing", "fly to oslo", "play songs"),
    anchored("rain", "play songs"),
    anchored("fly now", "fly to oslo", "rain", "snow"),
]


@pytest.mark.parametrize("symmetric", [False, True])
def test_equal_texts_are_no_negatives(world: World, symmetric: bool) -> None:
    """The loss written out: who competes with an anchor's positive, and with a positive's
    anchor."""
    task = task_of(TWICE, symmetric=symmetric, scale=5.0)
    encoder = SentenceEncoder.from_pretrained(world.model, pooling="mean")
    model = JointModel(encoder.bert, [task]).double().eval()
    batch = collate(prepare(TWICE, encoder.tokenizer, [task]), [task])
    states = model(batch)
    vectors = normalize(pool(states, batch.layout, "mean")).detach()
    vector_of: dict[str, torch.Tensor] = {}
    for i, example in enumerate(TWICE):
        assert example.second is not None
        texts = (example.text, example.second, *example.labels["positive"].texts)
        for text, row in zip(texts, batch.rows[i], strict=True):
            vector_of[text.casefold()] = vectors[row]

    def logit(first: str, second: str) -> float:
        return 5.0 * float(vector_of[first] @ vector_of[second])

    rows = [
        [text.casefold() for text in (e.text, str(e.second), *e.labels["positive"].texts)]
        for e in TWICE
    ]
    expected = 0.0
    for anchor, positive, *_ in rows:
        others = [text for row in rows for text in row[1:] if text not in (anchor, positive)]
        total = sum(math.exp(logit(anchor, text)) for text in [positive, *others])
        found = math.log(total) - logit(anchor, positive)
        if symmetric:
            others = [row[0] for row in rows if row[0] not in (anchor, positive)]
            total = sum(math.exp(logit(positive, text)) for text in [anchor, *others])
            found = (found + math.log(total) - logit(positive, anchor)) / 2
        expected += found
    assert float(task.loss(model, states, batch).detach()) == pytest.approx(expected, abs=1e-9)
    assert task.count(batch) == 4


def test_order_has_no_loss_where_all_scores_are_equal(world: World) -> None:
    examples = [Example("play", {"score": 0.5}, "", second="sing")] * 3
    task = task_of(examples, vector_loss="cosent")
    assert isinstance(task, PairOrder)
    tokenizer = SentenceEncoder.from_pretrained(world.model, pooling="mean").tokenizer
    assert task.count(collate(prepare(examples, tokenizer, [task]), [task])) == 0
    more = [*examples, Example("play", {"score": 0.7}, "", second="sing")]
    assert task.count(collate(prepare(more, tokenizer, [task]), [task])) == 3


def test_what_order_memorised() -> None:
    examples = [Example("a", {"score": score}, "", second="b") for score in (0.1, 0.5, 0.5, 0.9)]
    task = task_of(examples, vector_loss="cosent")
    items = [_Scored(example) for example in examples]
    found = [Prediction(cosine) for cosine in (0.2, 0.6, 0.3, 0.4)]
    assert task.are_right(items, found) == [True, False, True, False]  # type: ignore[arg-type]


class _Scored:
    def __init__(self, example: Example) -> None:
        self.example = example


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matryoshka": "12, 25"}, "matryoshka: 25 is more than the 24 numbers of this model's"),
        ({"matryoshka": "12, x"}, "matryoshka = '12, x': 'x' is no size of a vector"),
        ({"matryoshka": "0"}, "matryoshka = '0': '0' is no size of a vector"),
        ({"pairs": "positive=together"}, "pairs = 'positive=together': positive compares"),
        ({"pooling": "pooler"}, "pooling of positive: 'pooler' is not one of cls, max, mean"),
    ],
)
def test_settings_that_cannot_be(
    world: World, triplets: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        train(world.settings(triplets, **changes), tmp_path / "run")


# Runs


@pytest.fixture(scope="module")
def run(world: World, triplets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "run"
    train(world.settings(triplets, epochs=15, lr=3e-3, matryoshka="12", dropout=0.0), made)
    return made


def test_a_run_learns(world: World, triplets: Path, run: Path, tmp_path: Path) -> None:
    """Texts that it has not seen find their positives."""
    before = tmp_path / "before"
    train(world.settings(triplets, epochs=0), before)
    untrained, trained = (metrics_of(one)["test"]["positive"] for one in (before, run))
    assert untrained["ndcg_at_10"] < 0.4
    assert trained["ndcg_at_10"] > 0.7


def test_the_measure_is_that_of_brute_force(triplets: Path, run: Path) -> None:
    """Vectors by the saved encoder; every anchor against all positives and negatives of test."""
    records = [json.loads(line) for line in (triplets / "test.jsonl").read_text().splitlines()]
    encoder = SentenceEncoder.from_pretrained(run / "model")
    corpus = list(dict.fromkeys(t for r in records for t in (r["positive"], *r["negatives"])))
    vectors = encoder.encode(corpus, normalize=True)
    first, reciprocal = [], []
    for record in records:
        order = np.argsort(
            -(vectors @ encoder.encode(record["anchor"], normalize=True)), kind="stable"
        )
        ranking = [corpus[i] for i in order if corpus[i] != record["anchor"]]
        rank = 1 + ranking.index(record["positive"])
        first.append(rank == 1)
        reciprocal.append(1 / rank if rank <= 10 else 0.0)
    found = metrics_of(run)["test"]["positive"]
    assert len({record["anchor"] for record in records}) == len(records)
    assert found["recall_at_1"] == pytest.approx(np.mean(first))
    assert found["mrr_at_10"] == pytest.approx(np.mean(reciprocal))


def test_predictions_are_cosines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(run / "model")
    first, second = encoder.encode(["play some songs", "sing now"], normalize=True)
    assert predict_main([str(run), "play some songs\tsing now"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"play some songs\nsing now\n  positive: {first @ second:.4f}\n"
    assert predict_main([str(run), "--json", "play some songs\tsing now"]) == 0
    found = json.loads(capsys.readouterr().out)["positive"]["cosine"]
    assert found == pytest.approx(float(first @ second), abs=1e-6)


def test_evaluating_a_run_gives_its_own_metrics_and_loss(
    triplets: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_main([str(run), "--data", str(triplets), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["positive"]
    expected = metrics_of(run)["test"]["positive"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    cosines = [record["cosine"] for record in found["worst"]]
    assert cosines == sorted(cosines)


@pytest.mark.parametrize("memorised", [True, False])
def test_overfitting_one_batch(
    world: World,
    triplets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    memorised: bool,
) -> None:
    """It is memorised when each anchor finds its positive first."""
    arguments = ["--data", str(triplets), "--model", str(world.model), "--overfit-batch", "6"]
    arguments += ["--output", str(tmp_path / "run"), "--dropout", "0", "--lr", "0.003"]
    status = main([*arguments, "--epochs", "40" if memorised else "0"])
    assert status == (0 if memorised else 2)
    assert metrics_of(tmp_path / "run")["test"]["positive"]["recall_at_1"] == 1 or not memorised


class PowerCut(Exception):  # noqa: N818 (not an error)
    """Nothing of ours is told that the program ends."""


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(
    world: World, triplets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triplets and scored pairs, with dropout and everything that the losses have."""
    settings = world.settings(
        triplets,
        world.pairs,
        vector_loss="cosent",
        symmetric=True,
        matryoshka="16, 8",
        dropout=0.2,
        accumulate=2,
        save_steps=2,
    )
    train(settings, tmp_path / "whole")

    def rate(step: int, total: int, settings: Settings) -> float:
        if step == 5:
            raise PowerCut
        return rate_factor(step, total, settings)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "rate_factor", rate)
        with pytest.raises(PowerCut):
            train(settings, tmp_path / "run")
    torch.manual_seed(99)
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_negatives_of_all_rows_count(world: World, tmp_path: Path) -> None:
    """A run whose rows have no negatives, and one whose rows all have the same one."""
    rows = [{"anchor": f"{word} now", "positive": f"{word} songs"} for word in SECRET]
    losses = []
    for name, more in (("none", {}), ("one", {"negative": "my days"})):
        file = write_json_lines(tmp_path / name / "train.jsonl", [row | more for row in rows])
        write_json_lines(tmp_path / name / "dev.jsonl", [row | more for row in rows])
        train(world.settings(file.parent, epochs=0), tmp_path / f"run-{name}")
        losses.append(metrics_of(tmp_path / f"run-{name}")["dev"]["positive"]["loss"])
    assert losses[1] > losses[0]


# SimCSE


def test_simcse_reads_a_text_twice(world: World) -> None:
    """Dropout makes two vectors of it. Without dropout they are equal, and the loss is that of
    cosines of 1 beside those with the other texts."""
    encoder = SentenceEncoder.from_pretrained(world.model, pooling="mean")
    task = SimCSE.from_text(Settings(), encoder.tokenizer)
    assert (task.name, task.scale, task.vector_pooling) == ("simcse", 20.0, "mean")
    texts = ["play songs", "fly to oslo now", "rain", "my days in rome"]
    examples = [
        Example(text, {"simcse": task.text_label(text, True)}, "", second=text) for text in texts
    ]
    items = prepare(examples, encoder.tokenizer, [task])
    assert all(len(item.parts) == 2 for item in items)
    batch = collate(items, [task])
    model = JointModel(encoder.bert, [task])
    vectors = normalize(pool(model.train()(batch), batch.layout, "mean"))
    same = torch.stack([vectors[first] @ vectors[second] for first, second in batch.rows])
    assert bool((same < 0.9999).all())
    states = model.eval()(batch)
    vectors = normalize(pool(states, batch.layout, "mean"))[[rows[0] for rows in batch.rows]]
    logits = 20 * vectors @ vectors.T
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(4), reduction="sum")
    torch.testing.assert_close(task.loss(model, states, batch), expected)
    found = [one["simcse"] for one in predict(model, [task], items)]
    # https://github.com/SsnL/align_uniform has it so
    uniformity = torch.pdist(vectors.detach()).pow(2).mul(-2).exp().mean().log()
    assert task.measure(items, found)["uniformity"] == pytest.approx(float(uniformity), abs=1e-5)


def test_simcse_takes_no_field() -> None:
    assert not SimCSE.fits("positive", TWICE)
    assert Contrastive.fits("positive", TWICE)
