"""Accumulated gradients, and how the losses of several tasks become one.

Evidence: a step's gradient over uneven batches against that of all its sentences at once, and
against losses written out here, in float64; the mixed losses and the report on gradients against
sums by hand.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.files import InputError
from tests.training import (
    World,
    assemble_exact,
    assert_near,
    assert_same,
    every_kind,
    log_of,
    make_world,
    needs_bfloat16,
    step,
    write_json_lines,
)
from train.batches import Item
from train.mixing import LossMixer, add_gradients, gradient_report
from train.run import train
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import StepLosses
from train.tasks.regression import SentenceRegression
from train.tasks.tagging import TokenTagging

SIZES = (1, 5, 2, 9, 3)  # sentences of the batches of a step; what is left makes the last one
WEIGHTED = {"class_weights": "intent=music:2;travel:0.5;weather:4", "label_smoothing": 0.125}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def patchy(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of which some have both labels, some one of them, and some only a score."""
    folder = tmp_path_factory.mktemp("patchy")
    lines = {
        split: (world.sentences / f"{split}.jsonl").read_text().splitlines()
        for split in ("train", "dev")
    }
    for split, texts in lines.items():
        records = [json.loads(text) for text in texts]
        for i, record in enumerate(records):
            if i % 4 == 1:
                del record["slots"]
            if i % 4 == 2:
                del record["intent"]
            if i % 4 == 3:
                del record["slots"], record["intent"]
                record["score"] = i / 10
        write_json_lines(folder / f"{split}.jsonl", records)
    return folder


def chunks(items: Sequence[Item], sizes: Sequence[int] = SIZES) -> list[list[Item]]:
    cuts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [list(items[a:b]) for a, b in zip(cuts, [*cuts[1:], None], strict=True)]


# Squared errors are computed in float32 whatever the model's dtype, so there the sums differ by
# float32's rounding.
@pytest.mark.parametrize(
    ("data", "changes", "tolerance"),
    [
        ("sentences", {"tasks": ("intent",)}, 1e-12),
        ("sentences", {"tasks": ("intent",), **WEIGHTED}, 1e-12),
        ("sentences", {"tasks": ("slots",)}, 1e-12),
        ("scores", {}, 1e-6),
        ("pairs", {}, 1e-6),
        ("sentences", WEIGHTED, 1e-12),
        ("sentences", {"loss": "fixed", "loss_weights": "intent=0.7, slots=0.3"}, 1e-12),
        ("sentences", {"loss": "uncertainty"}, 1e-12),
        ("patchy", {}, 1e-6),
        ("patchy", {"tasks": ("intent", "slots"), **WEIGHTED}, 1e-12),
        ("patchy", {"loss": "uncertainty"}, 1e-6),
    ],
    ids=str,
)
def test_accumulated_gradient_is_that_of_the_whole_step(
    world: World, patchy: Path, data: str, changes: dict[str, Any], tolerance: float
) -> None:
    folder = patchy if data == "patchy" else getattr(world, data)
    parts = assemble_exact(world.settings(folder, dropout=0.0, **changes))
    items = parts.sources[0]
    # the first batch has no target of some tasks, and the second of none at all
    if data == "patchy":
        items = sorted(
            items,
            key=lambda item: ("slots" in item.example.labels, "intent" in item.example.labels),
        )
    whole, expected = step(parts, [items])
    accumulated, found = step(parts, chunks(items))
    assert_same(accumulated, whole, tolerance)
    assert found.counts == pytest.approx(expected.counts, rel=1e-12)
    assert found.sums == pytest.approx(expected.sums, rel=tolerance)


def test_every_kind_accumulates_exactly(world: World, tmp_path: Path) -> None:
    """The batches are of uneven size, and some lack a task."""
    parts, items = every_kind(world, tmp_path)
    whole, expected = step(parts, [items])
    accumulated, found = step(parts, chunks(items))
    assert_same(accumulated, whole, 1e-12)
    assert found.counts == pytest.approx(expected.counts, rel=1e-12)


@needs_bfloat16
@pytest.mark.parametrize("data", ["sentences", "pairs"])
def test_gradients_in_bfloat16_are_near_float32s_and_add_up(world: World, data: str) -> None:
    """A bfloat16 has a relative error of up to 2^-9. Several rounded products follow each other, so
    the gradient is off float32's by up to 2^-6 of its norm. Other batches of the same step round
    elsewhere, by up to 2^-7."""
    folder = getattr(world, data)
    exact = assemble(world.settings(folder, dropout=0.0))
    rounded = assemble(world.settings(folder, dropout=0.0, precision="bfloat16"))
    items = exact.sources[0]
    expected, _ = step(exact, [items])
    whole, losses = step(rounded, [items])
    accumulated, found = step(rounded, chunks(items))
    with pytest.raises(AssertionError):
        assert_near(whole, expected, 2**-11)  # else nothing was rounded
    assert_near(whole, expected, 2**-6)
    assert_near(accumulated, whole, 2**-7)
    assert found.counts == losses.counts
    assert found.sums == pytest.approx(losses.sums, rel=2**-7)


def test_batches_without_a_target_do_not_count(world: World, patchy: Path) -> None:
    parts = assemble_exact(world.settings(patchy, dropout=0.0, tasks=("intent", "slots")))
    with_targets = parts.sources[0]
    everything = assemble(world.settings(patchy, dropout=0.0)).sources[0]
    without = [item for item in everything if "score" in item.example.labels]
    assert without
    expected, _ = step(parts, [with_targets])
    batches = [with_targets[:7], without, with_targets[7:], without[:1]]
    found, losses = step(parts, batches)
    assert_same(found, expected, 1e-12)
    assert set(losses.counts) == {"intent", "slots"}
    tokens = sum(item.num_tokens for item in without)
    assert step(parts, [without]) == ({}, StepLosses({}, {}, tokens, {}))


def expected_loss(parts: Parts, items: Sequence[Item]) -> dict[str, Tensor]:
    """Each task's mean loss over all its targets in these items, sentence by sentence in plain
    terms."""
    logits: dict[str, list[Tensor]] = {task.name: [] for task in parts.tasks}
    targets: dict[str, list[float]] = {task.name: [] for task in parts.tasks}
    train_scores = [
        item.example.labels["score"]
        for source in parts.sources
        for item in source
        if "score" in item.example.labels
    ]
    heads: Any = parts.model.heads
    for item in items:
        states = [
            parts.model.bert(torch.tensor([part.ids]))[0] for part in item.parts
        ]  # (S, D) each
        for task in parts.tasks:
            label = item.example.labels.get(task.name)
            if isinstance(label, tuple):
                for word, tag in enumerate(label):
                    logits[task.name].append(
                        heads[task.name].classifier(states[0][item.parts[0].words.index(word)])
                    )
                    targets[task.name].append(task.labels.index(tag))
            elif task.kind == "similarity":
                logits[task.name].append(
                    F.cosine_similarity(states[0].mean(0), states[1].mean(0), dim=0)
                )
                targets[task.name].append(float(label))  # type: ignore[arg-type]
            elif label is not None:
                scores = heads[task.name].classifier(states[0].mean(0))
                logits[task.name].append(scores if task.labels else scores[0])
                targets[task.name].append(
                    task.labels.index(str(label))
                    if task.labels
                    else (label - statistics.fmean(train_scores)) / statistics.pstdev(train_scores)
                )
    losses = {}
    for task in parts.tasks:
        scores, gold = torch.stack(logits[task.name]), torch.tensor(targets[task.name])
        if task.labels:
            weights = getattr(task, "class_weights", None)
            losses[task.name] = F.cross_entropy(
                scores,
                gold.long(),
                None if weights is None else torch.tensor(weights, dtype=scores.dtype),
                label_smoothing=getattr(task, "label_smoothing", 0.0),
            )
        else:
            losses[task.name] = F.mse_loss(scores, gold.to(scores.dtype))
    return losses


@pytest.mark.parametrize(
    ("data", "changes", "tolerance"),
    [
        (
            "sentences",
            {**WEIGHTED, "loss": "fixed", "loss_weights": "intent=0.7, slots=0.3"},
            1e-12,
        ),
        ("sentences", {"loss": "uncertainty"}, 1e-12),
        ("scores", {}, 1e-6),
        ("pairs", {}, 1e-6),
        ("patchy", {}, 1e-6),
    ],
    ids=str,
)
def test_gradient_is_that_of_the_mean_losses_written_out(
    world: World, patchy: Path, data: str, changes: dict[str, Any], tolerance: float
) -> None:
    folder = patchy if data == "patchy" else getattr(world, data)
    parts = assemble_exact(world.settings(folder, dropout=0.0, **changes))
    items = parts.sources[0]
    found, taken = step(parts, chunks(items))
    losses = expected_loss(parts, items)
    assert taken.means() == pytest.approx(
        {name: float(loss.detach()) for name, loss in losses.items()}, rel=max(tolerance, 1e-7)
    )
    variances = dict(parts.mixer.log_variances.items())
    factors = (
        {"intent": 0.7, "slots": 0.3} if "loss_weights" in changes else dict.fromkeys(losses, 1.0)
    )
    total = torch.stack([factors[name] * loss for name, loss in losses.items()]).sum()
    if variances:  # Kendall, Gal and Cipolla 2018: exp(-s) L + s / 2
        total = torch.stack(
            [(-variances[name]).exp() * loss + variances[name] / 2 for name, loss in losses.items()]
        )
        total = total.sum()
    parts.model.zero_grad()
    parts.mixer.zero_grad()
    total.backward()
    named = {**dict(parts.model.named_parameters()), **dict(parts.mixer.named_parameters())}
    assert_same(
        found,
        {name: p.grad for name, p in named.items() if p.grad is not None},
        max(tolerance, 1e-10),
    )


@pytest.mark.parametrize("alpha", [0.7, 0.1, 1.0])
def test_alpha_weights_the_two_losses_exactly(world: World, alpha: float) -> None:
    a, b = torch.tensor(1.2345678), torch.tensor(0.7654321)
    settings = world.settings(loss="fixed", loss_weights=f"intent={alpha}, slots={1 - alpha!r}")
    mixer = LossMixer(assemble(world.settings()).tasks, settings)
    assert not list(mixer.parameters())
    assert torch.equal(mixer({"intent": a, "slots": b}), alpha * a + (1 - alpha) * b)
    assert torch.equal(mixer({"slots": b}), (1 - alpha) * b)


def test_sum_adds_the_losses(world: World) -> None:
    mixer = LossMixer(assemble(world.settings()).tasks, world.settings())
    assert float(mixer({"intent": torch.tensor(1.5), "slots": torch.tensor(0.25)})) == 1.75


def test_uncertainty_starts_as_the_sum_and_finds_the_losses_own_scale(world: World) -> None:
    mixer = LossMixer(assemble(world.settings()).tasks, world.settings(loss="uncertainty"))
    losses = {"intent": torch.tensor(3.0), "slots": torch.tensor(0.125)}
    assert mixer(losses).item() == 3.125
    optimizer = torch.optim.SGD(mixer.parameters(), lr=0.2)
    for _ in range(500):
        optimizer.zero_grad()
        mixer(losses).backward()
        mixer.add_penalty_gradient(losses)
        optimizer.step()
    for name, loss in losses.items():  # where the gradient 1/2 - exp(-s) L is 0
        assert float(mixer.log_variances[name].exp().detach()) == pytest.approx(
            2 * float(loss), rel=1e-4
        )


def test_uncertainty_of_the_tasks_of_two_data_sets() -> None:
    tasks = [SentenceRegression("a.score"), SentenceRegression("b.score")]
    mixer = LossMixer(tasks, Settings(loss="uncertainty"))
    losses = {"a.score": torch.tensor(3.0), "b.score": torch.tensor(0.5)}
    mixer(losses).backward()
    mixer.add_penalty_gradient(["a.score"])
    # the derivatives of exp(-s) loss / 2, where that is the loss, and of s / 2
    assert [float(p.grad) for p in mixer.parameters() if p.grad is not None] == [0.5 - 3.0, -0.5]


def test_uncertainty_finds_the_variance_of_the_noise() -> None:
    """Numbers with normal noise of variance 0.25, whose mean is predicted exactly: exp(s) is that
    variance, where the negative log-likelihood's gradient 1/2 - exp(-s) L / 2 is 0. A loss that is
    no squared error keeps exp(s) = 2 L."""
    tasks = [SentenceRegression("score"), TokenTagging("slots", ("O", "B-x"))]
    mixer = LossMixer(tasks, Settings(loss="uncertainty"))
    noise = 0.5 * torch.randn(20_000)
    losses = {"score": noise.square().mean(), "slots": torch.tensor(0.125)}
    assert mixer(losses).item() == pytest.approx(sum(float(x) for x in losses.values()), rel=1e-6)
    optimizer = torch.optim.SGD(mixer.parameters(), lr=0.2)
    for _ in range(500):
        optimizer.zero_grad()
        mixer(losses).backward()
        mixer.add_penalty_gradient(losses)
        optimizer.step()
    variances = {name: float(s.exp().detach()) for name, s in mixer.log_variances.items()}
    assert variances["score"] == pytest.approx(noise.var(correction=0).item(), rel=1e-3)
    assert variances["score"] == pytest.approx(0.25, rel=0.03)
    assert variances["slots"] == pytest.approx(0.25, rel=1e-4)
    # the factor is that of the likelihood: 1 / (2 * variance)
    factor = mixer({"score": torch.tensor(1.0)}).item()
    assert factor == pytest.approx(1 / (2 * variances["score"]), rel=1e-5)


def test_uncertainty_leaves_a_task_without_targets_alone(world: World) -> None:
    mixer = LossMixer(assemble(world.settings()).tasks, world.settings(loss="uncertainty"))
    mixer({"slots": torch.tensor(2.0)}).backward()
    mixer.add_penalty_gradient(["slots"])
    assert mixer.log_variances["intent"].grad is None
    assert float(mixer.log_variances["slots"].grad) == 0.5 - 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "fixed"}, "loss = fixed needs loss_weights"),
        ({"loss_weights": "intent=1, slots=1"}, "loss_weights needs loss = fixed"),
        (
            {"loss": "uncertainty", "loss_weights": "intent=1, slots=1"},
            "loss_weights needs loss = fixed",
        ),
        ({"loss": "fixed", "loss_weights": "intent=0.7"}, "give each task one: intent, slots"),
        (
            {"loss": "fixed", "loss_weights": "intent=0.7, slots=0.1, tags=0.2"},
            "give each task one: intent, slots",
        ),
        (
            {"loss": "fixed", "loss_weights": "intent=0.7, slots=-1"},
            "'-1' is no number of at least 0",
        ),
        (
            {"loss": "fixed", "loss_weights": "intent=0.7, slots=nan"},
            "'nan' is no number of at least 0",
        ),
        ({"loss": "fixed", "loss_weights": "0.7"}, "'0.7' should read name=value"),
    ],
    ids=str,
)
def test_weights_that_make_no_sense_are_refused(
    world: World, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LossMixer(assemble(world.settings()).tasks, world.settings(**changes))


def test_gradient_report_by_hand() -> None:
    found = gradient_report(
        {
            "a": torch.tensor([3.0, 4.0]),
            "b": torch.tensor([4.0, -3.0]),
            "c": torch.tensor([-6.0, -8.0]),
        }
    )
    assert found == {
        "gradient_norm.a": 5.0,
        "gradient_norm.b": 5.0,
        "gradient_norm.c": 10.0,
        "gradient_cosine.a.b": 0.0,
        "gradient_cosine.a.c": -1.0,
        "gradient_cosine.b.c": 0.0,
    }
    assert gradient_report({"a": torch.zeros(2), "b": torch.ones(2)})["gradient_cosine.a.b"] == 0.0
    assert gradient_report({}) == {}


def test_gradients_of_a_step_add_up_over_its_batches(world: World) -> None:
    """The norms and cosine are of the whole step, however its sentences fall into batches."""
    parts = assemble_exact(world.settings(dropout=0.0, log_gradients=True, freeze="embeddings"))
    items = parts.sources[0]
    plain = assemble_exact(world.settings(dropout=0.0, freeze="embeddings"))
    gradients, losses = step(parts, chunks(items))
    assert_same(gradients, step(plain, chunks(items))[0], 1e-12)  # looking changes nothing
    shared = [
        p for name, p in parts.model.bert.named_parameters() if not name.startswith("embeddings")
    ]
    flat = {}
    for name, loss in expected_loss(parts, items).items():
        found = torch.autograd.grad(loss, shared, retain_graph=True)
        flat[name] = torch.cat([gradient.flatten() for gradient in found])
    intent, slots = flat["intent"], flat["slots"]
    assert losses.gradients == pytest.approx(
        {
            "gradient_norm.intent": float(intent.norm()),
            "gradient_norm.slots": float(slots.norm()),
            "gradient_cosine.intent.slots": float(intent @ slots / intent.norm() / slots.norm()),
        },
        rel=1e-9,
    )


def test_gradients_of_tasks_in_different_batches_are_compared(world: World) -> None:
    parts = assemble(
        world.settings(world.sentences, world.scores, log_gradients=True, tasks=("intent", "score"))
    )
    _, losses = step(parts, [parts.sources[0][:8], parts.sources[1][:8]])
    assert set(losses.gradients) == {
        "gradient_norm.intent",
        "gradient_norm.score",
        "gradient_cosine.intent.score",
    }
    assert 0 < abs(losses.gradients["gradient_cosine.intent.score"]) < 1


def test_add_gradients_needs_something_that_learns(world: World) -> None:
    sums: dict[str, Tensor] = {}
    weight = torch.nn.Parameter(torch.ones(2))
    add_gradients(sums, {"a": weight.sum()}, [])
    add_gradients(sums, {"a": torch.ones(2).sum()}, [weight])
    assert sums == {}
    add_gradients(
        sums, {"a": weight.sum() * 2, "b": torch.nn.Parameter(torch.ones(2)).sum()}, [weight]
    )
    assert {name: gradient.tolist() for name, gradient in sums.items()} == {
        "a": [2, 2],
        "b": [0, 0],
    }


@pytest.mark.parametrize("freeze", ["", "backbone"])
def test_log_has_the_gradients_if_they_are_asked_for(
    world: World, tmp_path: Path, freeze: str
) -> None:
    for asked in (True, False):
        train(world.settings(epochs=1, log_gradients=asked, freeze=freeze), tmp_path / str(asked))
    keys = {"gradient_norm.intent", "gradient_norm.slots", "gradient_cosine.intent.slots"}
    for entry, plain in zip(log_of(tmp_path / "True"), log_of(tmp_path / "False"), strict=True):
        assert not keys & plain.keys()
        if "dev" not in entry and not freeze:
            assert keys <= entry.keys()
        assert {key: value for key, value in entry.items() if key not in keys} == plain
