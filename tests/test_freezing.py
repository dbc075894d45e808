"""What is frozen does not move, costs nothing, has no dropout; and what is thawed learns from its
epoch on.

Evidence: weights compared bit for bit before and after whole runs, and the autograd graph, the
optimizer's groups and the modules' modes looked at directly.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minibert.files import InputError
from minibert.formats.tensors import read_tensors
from tests.training import (
    World,
    differing,
    log_of,
    make_world,
    metrics_of,
    pair,
    trained,
    weights,
    write_model,
    write_splits,
)
from train import fit as fit_module
from train.checkpoint import checkpoints
from train.evaluation import predict
from train.freezing import FreezingPlan, select
from train.optimizer import build_optimizer, set_rates
from train.run import train
from train.saved import load_run
from train.setup import assemble
from train.step import forward_backward

UNITS = ["embeddings", *(f"layers.{i}" for i in range(12)), "pooler", "head.intent", "head.slots"]
LAYERS = UNITS[1:13]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def unit_of(name: str) -> str:
    """The unit that a JointModel's parameter belongs to."""
    found = re.match(r"bert\.(embeddings|layers\.\d+|pooler)|heads\.(\w+)", name)
    assert found
    return found[1] or f"head.{found[2]}"


# select


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ", []),
        ("all", UNITS),
        ("backbone", UNITS[:-2]),
        ("heads", UNITS[-2:]),
        ("layers", LAYERS),
        ("embeddings", ["embeddings"]),
        ("pooler", ["pooler"]),
        ("head.slots", ["head.slots"]),
        ("layers.3", ["layers.3"]),
        ("layers.0-5", LAYERS[:6]),
        ("layers.11-11", ["layers.11"]),
        ("layers.9-10", ["layers.9", "layers.10"]),
        ("embeddings,layers.0-1", ["embeddings", "layers.0", "layers.1"]),
        (" head.intent , layers.11 ,", ["layers.11", "head.intent"]),
        ("layers.1-2, layers.2-3", ["layers.1", "layers.2", "layers.3"]),
    ],
)
def test_select(text: str, expected: Sequence[str]) -> None:
    assert select(text, UNITS, "freeze") == set(expected)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("embedding", "embedding"),
        ("layers.12", "layers.12"),
        ("layers.0-12", "layers.0-12"),
        ("layers.5-3", "layers.5-3"),
        ("layers.-1", "layers.-1"),
        ("layers.1-", "layers.1-"),
        ("layer.1", "layer.1"),
        ("head", "head"),
        ("head.topic", "head.topic"),
        ("slots", "slots"),
        ("All", "All"),
        ("backbone; heads", "backbone; heads"),
        ("embeddings, layers.99", "layers.99"),
    ],
)
def test_select_refuses_what_names_nothing(text: str, word: str) -> None:
    with pytest.raises(InputError) as caught:
        select(text, UNITS, "freeze")
    assert str(caught.value).startswith(
        f"freeze = {text!r}: {word!r} matches nothing; there are embeddings, layers.0"
    )


def test_upper_layers_of_a_deeper_model_are_refused() -> None:
    six = [unit for unit in UNITS if unit not in LAYERS[6:]]
    with pytest.raises(InputError, match=r"'layers\.10-11' matches nothing"):
        select("layers.10-11", six, "unfreeze")
    with pytest.raises(InputError, match=r"'layers\.4-6' matches nothing"):  # one of them exists
        select("layers.4-6", six, "unfreeze")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"freeze": "layers.10-11"},
            r"freeze = 'layers\.10-11': .* matches nothing; there are embeddings, .*head\.slots",
        ),
        (
            {"freeze": "backbone", "unfreeze": "2: layers.3"},
            r"unfreeze = .*'layers\.3' matches nothing",
        ),
        (
            {"freeze": "layers.0", "unfreeze": "2: layers.0-1"},
            r"layers\.1 is not frozen by freeze = 'layers\.0'",
        ),
        ({"unfreeze": "2: layers.0"}, r"layers\.0 is not frozen by freeze = ''"),
        ({"freeze": "backbone", "unfreeze": "layers.0"}, r"'layers\.0' should read EPOCH: UNITS"),
        (
            {"freeze": "backbone", "unfreeze": "0: layers.0"},
            r"'0: layers\.0' should read EPOCH: UNITS",
        ),
        ({"freeze": "backbone", "unfreeze": "two: layers.0"}, r"should read EPOCH: UNITS"),
        ({"freeze": "backbone", "unfreeze": "\u00b2: layers.0"}, r"should read EPOCH: UNITS"),
        ({"freeze": "backbone", "unfreeze": "2: "}, r"'2:' names nothing"),
        ({"freeze": "all", "unfreeze": "2: head.slots"}, r"nothing would learn in the first epoch"),
    ],
    ids=str,
)
def test_a_run_refuses_what_cannot_be(
    world: World, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(world.settings(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The plan


def test_plan_by_epoch(world: World) -> None:
    parts = assemble(
        world.settings(
            freeze="backbone",
            unfreeze="4: layers.0, embeddings; 2:layers.2;3: layers.1",
            epochs=4,
        )
    )
    plan = parts.plan
    assert [sorted(plan.frozen_in(epoch)) for epoch in range(1, 6)] == [
        ["embeddings", "layers.0", "layers.1", "layers.2"],
        ["embeddings", "layers.0", "layers.1"],
        ["embeddings", "layers.0"],
        [],
        [],
    ]
    assert [plan.prefix(epoch) for epoch in range(1, 6)] == [4, 3, 2, 0, 0]
    for epoch in (2, 4, 3, 1):  # whatever came before
        plan.apply(epoch)
        learning = {unit_of(name) for name, p in parts.model.named_parameters() if p.requires_grad}
        assert learning == set(parts.model.units()) - plan.frozen_in(epoch)


@pytest.mark.parametrize(
    ("freeze", "prefix"),
    [
        ("", 0),
        ("layers.0-2", 0),
        ("heads", 0),
        ("embeddings", 1),
        ("embeddings, layers.1-2", 1),
        ("embeddings, layers.0, layers.2", 2),
        ("backbone", 4),
        ("all", 4),
    ],
)
def test_prefix_is_what_lies_frozen_below_all_that_learns(
    world: World, freeze: str, prefix: int
) -> None:
    assert assemble(world.settings(freeze=freeze)).plan.prefix(1) == prefix


def test_units_thawed_twice_learn_from_the_first_time(world: World) -> None:
    plan = assemble(
        world.settings(freeze="backbone", unfreeze="3: layers; 2: layers.2; 2: layers.1", epochs=3)
    ).plan
    assert [len(plan.frozen_in(epoch)) for epoch in (1, 2, 3)] == [4, 2, 1]


def test_pairs_have_no_head_that_could_learn_alone(world: World, tmp_path: Path) -> None:
    """Cosines have no parameters of their own: with the backbone frozen, nothing learns before it
    thaws."""
    with pytest.raises(InputError, match="nothing would learn in the first epoch"):
        train(
            world.settings(world.pairs, freeze="backbone", unfreeze="2: layers.2"), tmp_path / "run"
        )


# What freezing does to a step


SPECS = [
    "embeddings",
    "embeddings,layers.0",
    "embeddings,layers.0-1",
    "backbone",
    "layers.1",
    "heads",
    "head.slots",
    "",
]


@pytest.mark.parametrize("freeze", SPECS)
def test_frozen_parameters_have_no_gradient_and_are_in_no_group(world: World, freeze: str) -> None:
    parts = assemble(world.settings(freeze=freeze))
    frozen = select(freeze, list(parts.model.units()), "freeze")
    forward_backward(
        [parts.batch(parts.sources[0])],
        parts.model,
        parts.model,
        parts.mixer,
        parts.tasks,
        parts.settings,
    )
    optimizer = build_optimizer(parts.model, parts.mixer, parts.settings)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parts.model.named_parameters():
        assert (
            (unit_of(name) in frozen) == (parameter.grad is None) == (id(parameter) not in held)
        ), name


@pytest.mark.parametrize(
    ("freeze", "lowest"),
    [("embeddings", 0), ("embeddings,layers.0", 1), ("embeddings,layers.0-1", 2)],
)
def test_autograd_does_not_run_below_what_learns(world: World, freeze: str, lowest: int) -> None:
    parts = assemble(world.settings(freeze=freeze))
    entering: dict[int, Tensor] = {}
    for i, layer in enumerate(parts.model.bert.layers):
        layer.register_forward_pre_hook(lambda _, inputs, i=i: entering.update({i: inputs[0]}))
    leaving = parts.model(parts.batch(parts.sources[0]))
    assert [entering[i].requires_grad for i in range(3)] == [i > lowest for i in range(3)]
    assert leaving.requires_grad


def test_autograd_does_not_run_in_a_frozen_backbone(world: World) -> None:
    parts = assemble(world.settings(freeze="backbone"))
    assert not parts.model(parts.batch(parts.sources[0])).requires_grad


def test_frozen_units_have_no_dropout(world: World) -> None:
    parts = assemble(world.settings(freeze="embeddings,layers.0,head.slots", dropout=0.5))
    batch = parts.batch(parts.sources[0])
    entering: list[Tensor] = []
    parts.model.bert.layers[1].register_forward_pre_hook(
        lambda _, inputs: entering.append(inputs[0])
    )

    def twice() -> list[Tensor]:
        return [parts.model.train()(batch) for _ in range(2)]

    first, second = twice()
    assert torch.equal(entering[0], entering[1])
    assert not torch.equal(first, second)
    predict(parts.model, parts.tasks, parts.dev)  # which leaves the mode as it was
    modes = {name: unit.training for name, unit in parts.model.units().items()}
    frozen = {"embeddings", "layers.0", "head.slots"}
    assert modes == {name: name not in frozen for name in modes}
    heads = parts.model.heads
    assert torch.equal(heads["slots"](first), heads["slots"](first))
    assert not torch.equal(
        heads["intent"](first, batch.layout), heads["intent"](first, batch.layout)
    )
    assert not parts.model.eval().bert.layers[2].training


def test_thawed_units_have_dropout_again(world: World) -> None:
    parts = assemble(world.settings(freeze="backbone", unfreeze="2: layers.1-2"))
    parts.plan.apply(2)
    assert [layer.training for layer in parts.model.bert.layers] == [False, True, True]


# Whole runs


@pytest.mark.parametrize("freeze", [*SPECS, "embeddings,layers.0-2,head.intent"])
def test_frozen_weights_stay_and_all_others_move(world: World, tmp_path: Path, freeze: str) -> None:
    settings = world.settings(freeze=freeze, epochs=1)
    parts = assemble(settings)
    train(settings, tmp_path / "run")
    moved = {unit_of(name) for name in differing(weights(parts.model), trained(tmp_path / "run"))}
    names = list(parts.model.units())
    assert moved == set(names) - select(freeze, names, "freeze")
    if "embeddings" not in freeze and freeze != "backbone":  # every parameter of what learns
        same = weights(parts.model).keys() - differing(
            weights(parts.model), trained(tmp_path / "run")
        )
        assert {unit_of(name) for name in same} == select(freeze, names, "freeze")


def test_an_unused_pooler_stays(world: World, tmp_path: Path) -> None:
    """Even where everything is to learn, and where "backbone" is thawed; and it moves where a task
    pools with it."""
    model = str(write_model(tmp_path / "model", pooler=True))
    start = assemble(world.settings(model=model))
    assert start.model.bert.pooler is not None
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"freeze": "backbone", "unfreeze": "2: backbone"}, False),
        ({"pooling": "pooler"}, True),
        ({"pooling": "pooler", "freeze": "backbone", "unfreeze": "2: pooler"}, True),
    ]
    for i, (changes, moves) in enumerate(cases):
        settings = world.settings(model=model, **changes)
        train(settings, tmp_path / str(i))
        last = read_tensors(checkpoints(tmp_path / str(i))[-1] / "tensors.safetensors")
        moved = differing(
            weights(start.model), {name: last[f"model.{name}"] for name in weights(start.model)}
        )
        assert ("bert.pooler.dense.weight" in moved) == ("bert.pooler.dense.bias" in moved) == moves
        assert not any("pooler" in name for name in last if name.startswith("optimizer.")) or moves
    with pytest.raises(InputError, match="'2: pooler' names nothing that any task uses"):
        train(
            world.settings(model=model, freeze="backbone", unfreeze="2: pooler"),
            tmp_path / "refused",
        )


def test_gradual_unfreezing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps an epoch; each unit's rate is in the optimizer from its epoch on, with AdamW's
    state from nothing."""
    seen: list[dict[str, float]] = []

    def watched(optimizer: torch.optim.Optimizer, factor: float) -> None:
        set_rates(optimizer, factor)
        seen.append({group["unit"]: group["lr"] for group in optimizer.param_groups})

    monkeypatch.setattr(fit_module, "set_rates", watched)
    settings = world.settings(
        freeze="backbone",
        unfreeze="2: layers.2; 4: layers.1",
        epochs=4,
        schedule="constant",
        warmup=0.0,
        layer_decay=0.5,
    )
    start = assemble(settings)
    train(settings, tmp_path / "run")
    heads = {"head.intent": 0.01, "head.slots": 0.01}
    assert seen[:6] == [heads] * 6
    assert seen[6:18] == [heads | {"layers.2": 1e-3}] * 12
    assert seen[18:] == [heads | {"layers.2": 1e-3, "layers.1": 5e-4}] * 6
    last = read_tensors(checkpoints(tmp_path / "run")[-1] / "tensors.safetensors")
    steps = {
        unit_of(n.removeprefix("optimizer.")): float(t)
        for n, t in last.items()
        if n.endswith(".step")
    }
    assert steps == {"head.intent": 24, "head.slots": 24, "layers.2": 18, "layers.1": 6}
    before = weights(start.model)
    before.pop("bert.embeddings.word.weight")  # a checkpoint holds the rows of the words that occur
    moved = differing(before, {name: last[f"model.{name}"] for name in before})
    assert {unit_of(name) for name in moved} == set(steps)


@pytest.mark.usefixtures("one_thread")
def test_thawing_starts_from_the_weights_that_were_frozen(world: World, tmp_path: Path) -> None:
    """Up to the first step of epoch 2 a run that then thaws a layer is the run that does not.

    One computes more anew than the other: of so small a model, on one thread, as
    tests/test_cache.py says.
    """
    for name, schedule in (("thaws", "2: layers.2"), ("not", "")):
        settings = world.settings(
            freeze="backbone", unfreeze=schedule, keep=9, save_steps=6, dropout=0.0
        )
        train(settings, tmp_path / name)
    first, second = (
        read_tensors(tmp_path / name / "checkpoints/step-00000006/tensors.safetensors")
        for name in ("thaws", "not")
    )
    assert not differing(first, second)
    logs = [log_of(tmp_path / name) for name in ("thaws", "not")]
    assert logs[0][:7] == logs[1][:7]  # six steps and an evaluation
    assert logs[0][7]["loss"] == logs[1][7]["loss"]
    assert logs[0][7]["norm"] > logs[1][7]["norm"]  # there is more that learns
    assert logs[0][8]["loss"] != logs[1][8]["loss"]


@pytest.mark.parametrize("changes", [{}, {"loss": "uncertainty"}], ids=str)
def test_freeze_all_only_evaluates(
    world: World, tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing learns, not even the losses' weights; and the folder is that of any finished run."""
    settings = world.settings(freeze="all", **changes)
    start = assemble(settings)
    metrics = train(settings, tmp_path / "run")
    assert "everything is frozen: nothing is trained, only evaluated" in capsys.readouterr().out
    assert not differing(weights(start.model), trained(tmp_path / "run"))
    left = metrics_of(tmp_path / "run")
    assert (
        left["test"]
        == metrics
        == {name: left["test"][name] for name in ("intent", "slots", "frame")}
    )
    assert (left["steps"], left["best_step"], left["history"]) == (0, 0, [])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("heads.safetensors", "metrics.json", "model", "predictions.jsonl"),
        *("settings.toml", "tasks.json", "transformers"),
        "report.html",
    }
    assert len((tmp_path / "run/predictions.jsonl").read_text().splitlines()) == 12
    again = load_run(tmp_path / "run")
    assert predict(again.model, again.tasks, start.test) == predict(
        start.model, start.tasks, start.test
    )
    with pytest.raises(InputError, match="is finished"):
        train(settings, tmp_path / "run", resume=True)


def test_batches_of_which_nothing_learns_are_passed_over(world: World, tmp_path: Path) -> None:
    """Of two sources, one's head and the backbone are frozen: its batches have no gradient, and the
    run goes on."""
    settings = world.settings(
        world.sentences,
        world.scores,
        freeze="backbone, head.score",
        epochs=1,
        tasks=("intent", "score"),
    )
    start = assemble(settings)
    train(settings, tmp_path / "run")
    moved = differing(weights(start.model), trained(tmp_path / "run"))
    assert {unit_of(name) for name in moved} == {"head.intent"}
    assert metrics_of(tmp_path / "run")["steps"] == 6 + 4


def test_everything_frozen_by_its_parts(world: World, tmp_path: Path) -> None:
    """Pairs have no head: with the backbone frozen there is nothing left, and the run says so
    instead of failing."""
    write_splits(tmp_path / "pairs", pair, 10, 4)
    metrics = train(world.settings(tmp_path / "pairs", freeze="backbone"), tmp_path / "run")
    assert set(metrics) == {"cosine"}
    assert metrics_of(tmp_path / "run")["steps"] == 0


def test_unfreezing_in_an_epoch_that_never_comes_is_refused(world: World, tmp_path: Path) -> None:
    settings = world.settings(freeze="backbone", unfreeze="2: layers.2; 4: layers.1", epochs=3)
    with pytest.raises(InputError, match=r"unfreeze = .* there is no epoch 4, as epochs = 3"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plan_is_made_for_any_tasks(world: World) -> None:
    parts = assemble(world.settings(tasks=("slots",)))
    with pytest.raises(InputError, match=r"'head\.intent' matches nothing"):
        FreezingPlan(parts.model, "head.intent", "", parts.tasks)
