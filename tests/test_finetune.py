"""tools/finetune.py: the plain loop with transformers computes what ours computes, and what it
cannot do is refused.

Evidence: the losses of both sides on one batch, from the same weights; a run of both to the end.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import World, make_world, pair, sentence, write_splits
from tools import finetune
from tools.joint import Head, TransformersJoint, padded
from train.setup import assemble

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def related(dice: random.Random) -> dict[str, Any]:
    record = pair(dice)
    likeness = 5 * record.pop("cosine")
    return record | {"relation": "same" if likeness > 2 else "other", "likeness": likeness}


def topics(dice: random.Random) -> dict[str, Any]:
    """Some have no intent."""
    made = sentence(dice)
    found = {made["intent"], *(tag[2:] for tag in made["slots"] if tag != "O")}
    intent = {"intent": made["intent"]} if dice.random() < 0.5 else {}
    return {"text": " ".join(made["words"]), "topics": sorted(found)} | intent


def question(dice: random.Random) -> dict[str, Any]:
    """Half of them have no answer."""
    words = sentence(dice)["words"]
    context = " ".join(words)
    answers: dict[str, list[Any]] = {"text": [], "answer_start": []}
    if dice.random() < 0.5:
        answers = {"text": [words[-1]], "answer_start": [len(context) - len(words[-1])]}
    return {"question": "please sing", "context": context, "answers": answers}


@pytest.fixture(scope="module")
def data(world: World) -> dict[str, list[str]]:
    """The options of a run on each kind."""
    folder = world.model.parent
    for name, make in (("related", related), ("topics", topics), ("questions", question)):
        write_splits(folder / name, make, 16, 6)
    related_folder, questions = str(folder / "related"), str(folder / "questions")
    two = f"--data a={related_folder} --data b={related_folder} --data {world.sentences}"
    options = {
        "pairs": f"--data {related_folder} --pairs together",
        "several labels": f"--data {folder / 'topics'} --threshold best",
        "questions": f"--data {questions} --stride 3 --max-length 12",
        "tags": f"--data {world.sentences} --dropout 0 --loss fixed",
        "several data sets": f"{two} --pairs together --sampling temperature",
    }
    more = {"tags": ["--loss-weights", "intent=0.7, slots=0.3"]}
    return {name: [*text.split(), *more.get(name, ())] for name, text in options.items()}


@pytest.mark.parametrize(
    "name", ["pairs", "several labels", "questions", "tags", "several data sets"]
)
def test_both_sides_compute_the_same_losses(
    world: World, data: dict[str, list[str]], name: str
) -> None:
    options = [*data[name], "--model", str(world.model), "--device", "cpu", "--dropout", "0"]
    settings, *_ = finetune.command_line(options, "", "")
    parts = assemble(settings, announce=lambda _: None)
    plain = TransformersJoint(world.model, parts.tasks, dropout=0.0)
    for items in parts.sources:
        batch, rows = parts.batch(items[:8]), padded(items[:8])
        for task in parts.tasks:
            head = plain.heads[task.name]
            assert isinstance(head, Head)
            ours = dict(parts.model.heads[task.name].named_parameters())
            with torch.no_grad():
                for parameter, own in zip(head.linear.parameters(), ours.values(), strict=True):
                    parameter.copy_(own)
            assert bool(head.labelled(rows)) == bool(task.count(batch))
            if task.count(batch):
                loss = task.loss(parts.model, parts.model(batch), batch) / task.count(batch)
                other = head.loss(plain.hidden(rows), rows)
                assert other.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    "name", ["pairs", "several labels", "questions", "tags", "several data sets"]
)
def test_both_sides_train(
    world: World,
    data: dict[str, list[str]],
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--epochs", "1", "--batch-size", "8", "--seeds", "1", "--output", str(tmp_path)]
    assert (
        finetune.main([*data[name], "--model", str(world.model), "--device", "cpu", *options]) == 0
    )
    ours, other = (
        json.loads((tmp_path / f"{engine}-0" / "metrics.json").read_text(encoding="utf-8"))["test"]
        for engine in finetune.ENGINES
    )
    assert ours.keys() == other.keys()
    for task in ours.keys() - {"frame"}:
        assert ours[task].keys() == {*other[task], "loss"}
    assert "minibert, 1 seed  transformers, 1 seed\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accumulate", "2"], "the plain loop has no accumulate = 2: leave it out, or give"),
        (["--monitor", "intent.loss"], "the plain loop has no monitor = 'intent.loss'"),
        (["--pooling", "slots=cls, intent=max"], "intent pools by max"),
        (["--stride", "2"], "intent reads them in windows"),
    ],
)
def test_what_the_plain_loop_cannot_do_is_refused(
    world: World,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--data", str(world.sentences), "--model", str(world.model), "--output", str(tmp_path)]
    assert finetune.main([*given, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_kind_without_a_plain_loop_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(["--data", str(world.pairs), "--model", str(world.model)]) == 2
    assert "no plain loop for cosine (similarity, 0.1 to 0.9)" in capsys.readouterr().err
