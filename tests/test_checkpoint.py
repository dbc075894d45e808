"""Checkpoints and what a run leaves: a resumed run is the uninterrupted one, and others open the
model.

Evidence: runs stopped by signals and by errors at several points and then resumed, compared bit for
bit with a run that was not stopped: weights, optimizer, random generators, metrics, predictions and
the log. The saved encoder against `sentence_transformers` and `transformers`.
"""

import ast
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import minibert
import train as train_package
from minibert import Bert, Padded, SentenceEncoder
from minibert.files import InputError, write_text
from minibert.formats.tensors import digest, read_tensors, save_tensors
from minibert.program import Interrupted
from tests.training import (
    World,
    differing,
    log_of,
    make_world,
    metrics_of,
    needs_bfloat16,
    outcome,
    trained,
    weights,
    write_model,
)
from train import fit as fit_module
from train import run as run_module
from train.batches import collate, prepare
from train.checkpoint import (
    checkpoints,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from train.evaluation import predict
from train.journal import append_log, cut_log
from train.model import JointModel
from train.optimizer import build_optimizer, rate_factor, set_rates
from train.progress import Progress
from train.random_states import all_random_states
from train.report import model_card
from train.run import main, train
from train.saved import load_run, save_for_transformers
from train.settings import Settings
from train.setup import assemble
from train.step import forward_backward
from train.tasks.base import Task
from train.tasks.regression import SentenceRegression
from train.tasks.tagging import TokenTagging
from train.unlabelled import from_lines
from train.world import ALONE

ROOT = Path(minibert.__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


class PowerCut(Exception):  # noqa: N818 (not an error)
    """Nothing of ours is told that the program ends."""


def power_cut() -> None:
    raise PowerCut


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def happens(monkeypatch: pytest.MonkeyPatch, events: dict[int, Callable[[], None]]) -> None:
    """At the start of these steps, counted from 1, something happens; each once."""
    pending = dict(events)

    def rate(step: int, total: int, settings: Settings) -> float:
        if step + 1 in pending:
            pending.pop(step + 1)()
        return rate_factor(step, total, settings)

    monkeypatch.setattr(fit_module, "rate_factor", rate)


# Resuming

SCENARIOS: dict[str, dict[str, Any]] = {
    # 2 steps an epoch, the second smaller
    "accumulation": {"accumulate": 4, "epochs": 3, "dropout": 0.2},
    "thawing": {  # 3 steps an epoch; the cache has another prefix in each
        "freeze": "backbone",
        "unfreeze": "2: layers.2; 3: layers.1",
        "accumulate": 2,
        "epochs": 3,
        "eval_steps": 2,
        "dropout": 0.3,
        "layer_decay": 0.5,
    },
    "sources": {  # 14 steps an epoch; a source that runs out is shuffled again in the middle
        "sampling": "temperature",
        "loss": "uncertainty",
        "freeze": "embeddings",
        "cache_mib": 0,
        "eval_steps": 5,
        "schedule": "cosine",
        "label_smoothing": 0.1,
    },
    # steps of 1, 1, 2, 2 batches, then of 3, 3; stops in the middle of the second epoch
    "pieces": {
        "mini_batch_size": 3,
        "accumulate": 3,
        "ramp_steps": 5,
        "max_steps": 6,
        "epochs": 3,
        "dropout": 0.2,
        "freeze": "embeddings",
    },
    "bfloat16": {"precision": "bfloat16", "accumulate": 2, "dropout": 0.2, "epochs": 2},
    # stops at 18
    "early stopping": {
        "patience": 2,
        "epochs": 9,
        "lr": 1e-5,
        "head_lr": 1e-5,
        "monitor": "slots.f1",
    },
}


@pytest.fixture(scope="module")
def uninterrupted(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Settings, Any]]:
    """The settings of a scenario, and the outcome of its run; each is run once."""
    known: dict[str, tuple[Settings, Any]] = {}

    def of(name: str) -> tuple[Settings, Any]:
        if name not in known:
            data = (world.sentences, world.pairs, world.scores) if name == "sources" else ()
            settings = world.settings(*data, **SCENARIOS[name])
            run = tmp_path_factory.mktemp("uninterrupted") / "run"
            train(settings, run)
            known[name] = settings, outcome(run)
        return known[name]

    return of


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("accumulation", [1]),
        # the last steps of the first and of the last epoch, and between them
        ("accumulation", [2, 3, 6]),
        ("thawing", [2]),
        ("thawing", [3, 4, 8]),
        ("thawing", [9]),
        ("sources", [4, 5, 18]),
        ("sources", [14]),
        ("pieces", [1, 4, 5]),
        ("pieces", [6]),
        pytest.param("bfloat16", [2, 5], marks=needs_bfloat16),
        ("early stopping", [7, 17]),
        ("early stopping", [18]),
    ],
    ids=str,
)
def test_a_resumed_run_is_the_uninterrupted_one(
    uninterrupted: Callable[[str], tuple[Settings, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stops: list[int],
) -> None:
    settings, expected = uninterrupted(name)
    run = tmp_path / "run"
    numbers = (signal.SIGTERM, signal.SIGINT)
    happens(monkeypatch, {step: send(numbers[i % 2]) for i, step in enumerate(stops)})
    for i, step in enumerate(stops):
        # as another process would: nothing may depend on what the generator held
        torch.manual_seed(1234 + i)
        with pytest.raises(Interrupted, match=f"^stopped after step {step}$"):
            train(settings, run, resume=i > 0)
        assert [folder.name for folder in checkpoints(run)] == [f"step-{step:08}"]
        assert max(entry["step"] for entry in log_of(run)) == step
        assert not (run / "metrics.json").exists()
    torch.manual_seed(4321)
    train(settings, run, resume=True)
    assert outcome(run) == expected
    taken = [entry["step"] for entry in log_of(run) if "norm" in entry]
    assert taken == list(range(1, len(taken) + 1))


def test_early_stopping_scenario_stops_early(
    uninterrupted: Callable[[str], tuple[Settings, Any]],
) -> None:
    _, expected = uninterrupted("early stopping")
    assert (expected["metrics"]["steps"], expected["metrics"]["best_step"]) == (18, 6)


@pytest.mark.parametrize(
    ("name", "cut", "saved"),
    [("thawing", 6, 4), ("sources", 12, 10), ("accumulation", 6, 4), ("pieces", 6, 4)],
)
def test_a_run_that_was_cut_off_goes_on_from_its_last_checkpoint(
    uninterrupted: Callable[[str], tuple[Settings, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    cut: int,
    saved: int,
) -> None:
    """The log's steps after the checkpoint are taken again, and stand there once; a torn line is
    dropped."""
    settings, expected = uninterrupted(name)
    settings = replace(settings, save_steps=2)
    happens(monkeypatch, {cut: power_cut})
    with pytest.raises(PowerCut):
        train(settings, tmp_path / "run")
    assert checkpoints(tmp_path / "run")[-1].name == f"step-{saved:08}"
    assert max(entry["step"] for entry in log_of(tmp_path / "run")) == cut - 1 > saved
    with (tmp_path / "run/log.jsonl").open("a") as stream:
        stream.write('{"step": 99, "epo')
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == expected


def test_a_run_cut_off_while_it_tests_only_tests_again(
    uninterrupted: Callable[[str], tuple[Settings, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, expected = uninterrupted("accumulation")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_run", lambda *_: power_cut())
        with pytest.raises(PowerCut):
            train(settings, tmp_path / "run")
    monkeypatch.setattr(fit_module, "forward_backward", lambda *_: pytest.fail("a step was taken"))
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == expected


def test_skipped_steps_survive_resuming(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two before the interruption and one after it are three in a row."""
    monkeypatch.setattr(fit_module, "clip_gradients", lambda *_: float("nan"))
    happens(monkeypatch, {2: send(signal.SIGTERM)})
    with pytest.raises(Interrupted):
        train(world.settings(), tmp_path / "run")
    assert read_progress(tmp_path / "run", world.settings()).skipped_in_a_row == 2
    with pytest.raises(
        InputError,
        match="3 steps in a row had a loss or gradient that is not finite, the last at step 3",
    ):
        train(world.settings(), tmp_path / "run", resume=True)


def test_sigterm_in_earnest(world: World, tmp_path: Path) -> None:
    """A process of its own, stopped from outside, and the same command line with --resume.

    Its output goes to a pipe that is too small for all of it, so it cannot be finished before the
    signal comes.
    """
    settings = world.settings(epochs=8, eval_steps=1, save_steps=10_000)
    write_text(tmp_path / "recipe.toml", settings.toml())
    program = [sys.executable, "-m", "train.run"]
    run = tmp_path / "run"
    command = [*program, "--recipe", str(tmp_path / "recipe.toml"), "--output", str(run)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        line = ""
        while not line.startswith("epoch"):
            line = process.stdout.readline()
            assert line or process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    (folder,) = checkpoints(run)
    step = int(folder.name.removeprefix("step-"))
    assert errors == f"stopped after step {step}; to go on: python -m train.run --resume {run}\n"
    assert 0 < step < 48
    assert {path.name for path in folder.iterdir()} == {"state.json", "tensors.safetensors"}
    assert {path.name for path in run.iterdir()} == {"checkpoints", "log.jsonl", "settings.toml"}
    finished = subprocess.run(
        [*program, "--resume", str(run)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    train(replace(settings, output=str(run)), tmp_path / "uninterrupted")
    assert outcome(run) == outcome(tmp_path / "uninterrupted")


def test_signals_are_as_they_were_afterwards(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    happens(monkeypatch, {1: send(signal.SIGTERM)})
    with pytest.raises(Interrupted):
        train(world.settings(), tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# What cannot be resumed


def save_sealed(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write a checkpoint's tensors with the SHA-256 that is theirs."""
    save_tensors(tensors, file, {"sha256": digest(tensors)})


@pytest.fixture
def interrupted(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped after its second step."""
    with monkeypatch.context() as patch:
        happens(patch, {2: send(signal.SIGTERM)})
        with pytest.raises(Interrupted):
            train(world.settings(), tmp_path / "run")
    return tmp_path / "run"


def resume_error(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `--resume` prints, on one line, when it refuses."""
    capsys.readouterr()
    assert main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_resume_of_a_finished_run(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world.settings(epochs=1), tmp_path / "run")
    left = outcome(tmp_path / "run")
    error = resume_error(tmp_path / "run", capsys)
    assert "is finished: its metrics stand in" in error
    assert "metrics.json" in error
    assert outcome(tmp_path / "run") == left


def test_resume_without_a_checkpoint(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot read" in resume_error(tmp_path / "nowhere", capsys)
    write_text(tmp_path / "run" / "settings.toml", world.settings().toml())
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "9"]) == 2
    assert "has no checkpoint to go on from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "epochs = 3",
            "step-00000002 was made with: epochs was 2 and is 3. Put it back, or start a new run",
        ),
        ("lr = 0.002", "lr was 0.001 and is 0.002"),
        ('freeze = "embeddings"', "freeze was '' and is 'embeddings'"),
        ("max_length = 12", "max_length was None and is 12"),
        ('tasks = ["slots"]', r"tasks was () and is ('slots',)"),
    ],
)
def test_resume_with_other_settings(
    interrupted: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    file = interrupted / "settings.toml"
    key = line.partition(" ")[0]
    kept = [old for old in file.read_text().splitlines() if old.partition(" ")[0] != key]
    file.write_text("\n".join([*kept, line]) + "\n")
    error = resume_error(interrupted, capsys)
    assert "settings.toml is not what the checkpoint" in error
    assert message in error


def test_resume_on_another_model(
    world: World, interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another size, or with a task more: the folders' contents have changed since."""
    file = checkpoints(interrupted)[-1] / "tensors.safetensors"
    tensors = read_tensors(file)
    save_sealed({name: t for name, t in tensors.items() if "head" not in name}, file)
    assert "belongs to another model: 'model.heads." in resume_error(interrupted, capsys)
    name = "model.heads.intent.classifier.weight"
    save_sealed(tensors | {name: tensors[name][:, :5]}, file)
    error = resume_error(interrupted, capsys)
    assert f"{name} is float32 [3, 5], and here float32 [3, 24]" in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.json", b"{", "state.json, line 1: not JSON"),
        ("state.json", b"{}", "state.json is no state of a run"),
        ("state.json", b"[]", "state.json: must hold a JSON object"),
        (
            "state.json",
            b'{"settings": {}, "progress": {"steps": 1}}',
            "state.json is no state of a run",
        ),
        ("tensors.safetensors", b"", "tensors.safetensors is not a sound safetensors file"),
        (
            "tensors.safetensors",
            b"\x80\x02}q\x00.",
            "it is a pickle under another name, which is never opened here",
        ),
    ],
)
def test_resume_from_a_damaged_checkpoint(
    interrupted: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (checkpoints(interrupted)[-1] / name).write_bytes(content)
    assert message in resume_error(interrupted, capsys)


def test_a_checkpoint_of_an_earlier_version_goes_on(interrupted: Path) -> None:
    """It notes no SHA-256 and no model, may note no data, calls the evaluations since the best one
    `worse`, and does not say what the seconds were spent on."""
    folder = checkpoints(interrupted)[-1]
    state = json.loads((folder / "state.json").read_text())
    state = {"settings": state["settings"], "progress": state["progress"]}
    state["progress"]["worse"] = state["progress"].pop("evaluations_since_best")
    state["progress"]["seconds"] = 1000.5
    (folder / "state.json").write_text(json.dumps(state))
    save_tensors(read_tensors(folder / "tensors.safetensors"), folder / "tensors.safetensors")
    assert main(["--resume", str(interrupted)]) == 0
    assert 1000.5 < metrics_of(interrupted)["seconds"] < 2000


def test_resume_is_given_alone(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--lr", "1e-3"], ["--epochs", "9", "--seed", "1"], ["--recipe", "newsroom"]):
        assert main(["--resume", str(interrupted), *more]) == 2
        error = capsys.readouterr().err
        assert "--resume goes on with the run's own settings: give it alone" in error


# More epochs


def test_a_finished_run_trains_longer(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rates are constant, three epochs and then two more are five epochs, bit for bit."""
    settings = world.settings(schedule="constant", warmup=0.0, dropout=0.2)
    train(replace(settings, epochs=5), tmp_path / "five")
    train(replace(settings, epochs=3), tmp_path / "run")
    capsys.readouterr()
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "5"]) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "five")
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"{tmp_path / 'run'} has taken 18 steps with epochs = 3. It goes on with epochs = 5: the "
        "learning rates are those of the constant schedule over the longer run\n"
    )
    assert "epochs = 5\n" in (tmp_path / "run/settings.toml").read_text()


def test_longer_training_follows_the_longer_schedule(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 2 of 12 steps: the 16 steps of 3 epochs that are left have the rates that they
    would have had from the start."""
    seen: list[tuple[int, int]] = []

    def rate(step: int, total: int, settings: Settings) -> float:
        seen.append((step, total))
        return rate_factor(step, total, settings)

    monkeypatch.setattr(fit_module, "rate_factor", rate)
    assert main(["--resume", str(interrupted), "--epochs", "3"]) == 0
    assert seen == [(step, 18) for step in range(2, 18)]


def test_longer_training_that_is_interrupted_is_resumed_as_any_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "run"):
        train(world.settings(epochs=1), tmp_path / name)
    assert main(["--resume", str(tmp_path / "whole"), "--epochs", "3"]) == 0
    happens(monkeypatch, {9: send(signal.SIGINT)})
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "3"]) == 130
    assert not (tmp_path / "run/metrics.json").exists()
    assert main(["--resume", str(tmp_path / "run")]) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_that_stopped_early_gets_as_much_patience_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5, 0.4, 0.3, 0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(fit_module, "monitored_value", lambda *_: next(values))
    train(world.settings(epochs=6, patience=2), tmp_path / "run")
    assert metrics_of(tmp_path / "run")["steps"] == 18
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "9"]) == 0
    metrics = metrics_of(tmp_path / "run")
    assert (metrics["steps"], metrics["best_step"]) == (36, 24)


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ("1", "--epochs 1: .* has 2 already; give more"),
        ("2", "--epochs 2: .* has 2 already; give more"),
        ("-3", "has 2 already"),
    ],
)
def test_fewer_epochs_are_refused(
    interrupted: Path, capsys: pytest.CaptureFixture[str], epochs: str, message: str
) -> None:
    before = (interrupted / "settings.toml").read_text()
    assert main(["--resume", str(interrupted), "--epochs", epochs]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert (interrupted / "settings.toml").read_text() == before


# Other data


def relabelled(line: str) -> str:
    return line.replace('"travel"', '"trips"')


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            lambda lines: map(relabelled, lines),
            [
                "the labels of intent were music, travel, weather and are music, trips, weather; ",
                "the train split of sentences has other texts or labels",
            ],
        ),
        (
            lambda lines: [*lines, *lines],
            ["the train split of sentences had 44 examples and has 88. "],
        ),
        (
            lambda lines: [lines[0].replace('"words": ["', '"words": ["the'), *lines[1:]],
            ["trained on: the train split of sentences has other texts or labels. Put it back"],
        ),
    ],
    ids=["labels", "size", "a text"],
)
def test_resume_on_other_data(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[str]], Any],
    messages: list[str],
) -> None:
    """And on the same data again, it goes on."""
    data = shutil.copytree(world.sentences, tmp_path / "sentences")
    with monkeypatch.context() as patch:
        happens(patch, {2: send(signal.SIGTERM)})
        with pytest.raises(Interrupted):
            train(world.settings(data), tmp_path / "run")
    files = [data / f"{split}.jsonl" for split in ("train", "dev", "test")]
    before = [file.read_text() for file in files]
    changed = files if "labels of" in messages[0] else files[:1]
    for file in changed:
        lines = change(file.read_text().splitlines())
        file.write_text("".join(f"{line}\n" for line in lines))
    error = resume_error(tmp_path / "run", capsys)
    assert error.startswith(f"error: the data is not what {tmp_path / 'run'} was trained on: ")
    for message in messages:
        assert message in error
    for file, text in zip(files, before, strict=True):
        file.write_text(text)
    assert main(["--resume", str(tmp_path / "run")]) == 0


# Interrupted while it evaluates


def at_batch(
    monkeypatch: pytest.MonkeyPatch, event: Callable[[], None], number: int
) -> list[list[str]]:
    """Something happens when a batch of an evaluation is made, counted from 1. Returns what will
    have been in the batches."""
    seen: list[list[str]] = []

    def noting(items: Any, *rest: Any) -> Any:
        seen.append([item.example.where for item in items])
        if len(seen) == number:
            event()
        return collate(items, *rest)

    monkeypatch.setattr("train.evaluation.collate", noting)
    return seen


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluations: each of the 12 sentences is one."""
    monkeypatch.setattr("train.evaluation.BATCH_TOKENS", 1)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("batch", [1, 5])
def test_an_evaluation_stops_at_its_next_batch(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """And comes again when the run is resumed: also when the second time it is stopped again."""
    train(world.settings(epochs=1), tmp_path / "whole")
    for resume in (False, True):
        with monkeypatch.context() as patch:
            seen = at_batch(patch, send(signal.SIGINT), batch)
            with pytest.raises(Interrupted, match=r"^stopped after step 6$"):
                train(world.settings(epochs=1), tmp_path / "run", resume)
        assert len(seen) == batch
        assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["step-00000006"]
        assert read_progress(tmp_path / "run", world.settings(epochs=1)).is_due
    train(world.settings(epochs=1), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_second_signal_ends_the_program_at_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the program goes on")

    happens(monkeypatch, {9: twice})
    with pytest.raises(KeyboardInterrupt) as raised:
        train(world.settings(save_steps=2), tmp_path / "run")
    assert not isinstance(raised.value, Interrupted)
    monkeypatch.undo()
    assert checkpoints(tmp_path / "run")[-1].name == "step-00000008"
    train(world.settings(save_steps=2), tmp_path / "run", resume=True)
    train(world.settings(save_steps=2), tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.usefixtures("small_batches")
def test_interrupted_while_it_tests_at_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once; and resumed, the run only evaluates again."""
    train(world.settings(epochs=1), tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_batch(patch, send(signal.SIGINT), 30)  # the 12 of dev came in training and at the end
        with pytest.raises(KeyboardInterrupt):
            train(world.settings(epochs=1), tmp_path / "run")
    monkeypatch.setattr(fit_module, "forward_backward", lambda *_: pytest.fail("a step was taken"))
    train(world.settings(epochs=1), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


# The files of a checkpoint


def test_checkpoint_holds_all_that_goes_on(world: World, tmp_path: Path) -> None:
    """Two steps, a checkpoint, and then the same third step from it as without it."""
    settings = world.settings(loss="uncertainty", dropout=0.2)

    def start() -> tuple[Any, torch.optim.Optimizer, dict[str, torch.nn.Parameter]]:
        parts = assemble(settings)
        return (
            parts,
            build_optimizer(parts.model, parts.mixer, settings),
            parts.parameters(),
        )

    def step(parts: Any, optimizer: torch.optim.Optimizer, i: int) -> None:
        set_rates(optimizer, 0.5)
        batch = parts.batch(parts.sources[0][8 * i : 8 * i + 8])
        forward_backward([batch], parts.model, parts.model, parts.mixer, parts.tasks, settings)
        optimizer.step()
        optimizer.zero_grad()

    parts, optimizer, parameters = start()
    for i in range(2):
        step(parts, optimizer, i)
    progress = Progress(
        step=2,
        position=2,
        best=0.1 + 0.2,
        losses={"intent": [1 / 3, 2.0]},
        history=[{"step": 1, "epoch": 1, "loss": {"intent": 1 / 3}, "dev": {"frame": 0.1}}],
    )
    best = {name: torch.full_like(p, 1 / 7) for name, p in parameters.items()}
    save_checkpoint(
        tmp_path,
        parameters,
        best,
        optimizer,
        all_random_states(ALONE),
        progress,
        settings,
        parts.origin,
    )
    step(parts, optimizer, 2)
    expected = {name: p.detach().clone() for name, p in parameters.items()}
    parts, optimizer, parameters = start()
    torch.manual_seed(99)
    assert read_progress(tmp_path, settings) == progress
    found = load_checkpoint(tmp_path, parameters, optimizer)
    assert not differing(best, found)
    step(parts, optimizer, 2)
    assert not differing(expected, {name: p.detach() for name, p in parameters.items()})
    assert "loss.log_variances.slots" in expected


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_checkpoints_are_kept(world: World, tmp_path: Path, keep: int) -> None:
    train(world.settings(save_steps=3, keep=keep), tmp_path / "run")  # twelve steps
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == [
        f"step-{step:08}" for step in (3, 6, 9, 12)[-keep:]
    ]


def test_each_kept_checkpoint_is_of_its_own_step(world: World, tmp_path: Path) -> None:
    train(world.settings(save_steps=5, keep=9), tmp_path / "run")
    states = [
        json.loads((folder / "state.json").read_text())["progress"]
        for folder in checkpoints(tmp_path / "run")
    ]
    assert [(s["step"], s["epoch"], s["position"]) for s in states] == [
        (5, 1, 5),
        (10, 2, 4),
        (12, 3, 0),
    ]
    tensors = [
        read_tensors(folder / "tensors.safetensors") for folder in checkpoints(tmp_path / "run")
    ]
    name = "optimizer.heads.slots.classifier.bias.step"
    assert [float(t[name]) for t in tensors] == [5, 10, 12]
    assert not any(key.startswith("best.") for key in tensors[0])
    assert any(key.startswith("best.") for key in tensors[1])


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "where", ["tensors.safetensors", "state.json", "rename of a file", "rename of the folder"]
)
def test_a_full_disk_leaves_the_checkpoint_before_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """At whichever file it happens: one error, no half-written folder, and the run goes on from the
    older one."""
    settings = world.settings(save_steps=2)
    train(settings, tmp_path / "expected")
    replace_file, write_bytes, write_text = os.replace, Path.write_bytes, Path.write_text

    def fills_up() -> None:
        def fails(path: Path, what: str) -> bool:
            return where == what and "step-00000004" in str(path)

        def bytes_(path: Path, data: bytes) -> int:
            if fails(path, path.name.split(".")[1] + ".safetensors"):
                write_bytes(path, data[:100])  # as much as there is room for
                full()
            return write_bytes(path, data)

        def text(path: Path, data: str, **options: Any) -> int:
            return (
                full()
                if fails(path, path.name.split(".")[1] + ".json")
                else write_text(path, data, **options)
            )  # type: ignore[func-returns-value, return-value]

        def rename(old: Path, new: Path) -> None:
            of_folder = Path(new).name == "step-00000004"
            if fails(new, "rename of the folder" if of_folder else "rename of a file"):
                full()
            replace_file(old, new)

        monkeypatch.setattr(Path, "write_bytes", bytes_)
        monkeypatch.setattr(Path, "write_text", text)
        monkeypatch.setattr(os, "replace", rename)

    happens(monkeypatch, {3: fills_up})
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        train(settings, tmp_path / "run")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "expected")


def test_a_full_disk_is_one_error_for_the_log_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"cannot write .*log\.jsonl: No space left on device"):
        append_log(tmp_path, {"step": 1})


def test_what_an_earlier_failure_left_is_swept_up(world: World, tmp_path: Path) -> None:
    """The program was killed while it wrote a checkpoint: the next one of that step replaces what
    it left."""
    rubbish = tmp_path / "run/checkpoints/.step-00000012.tmp"
    rubbish.mkdir(parents=True)
    (rubbish / "tensors.safetensors").write_bytes(b"half")
    train(world.settings(), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000012"]


def test_log_is_json_whatever_the_numbers(tmp_path: Path) -> None:
    append_log(
        tmp_path,
        {"step": 1, "loss": {"intent": float("nan")}, "norm": float("inf"), "x": 0.1 + 0.2},
    )
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 1,
        "loss": {"intent": None},
        "norm": None,
        "x": 0.1 + 0.2,
    }


def test_cut_log(tmp_path: Path) -> None:
    cut_log(tmp_path, 3)  # no log yet
    assert not (tmp_path / "log.jsonl").exists()
    for step in (1, 2, 2, 3, 4):
        append_log(tmp_path, {"step": step})
    cut_log(tmp_path, 2)
    assert [entry["step"] for entry in log_of(tmp_path)] == [1, 2, 2]
    cut_log(tmp_path, 0)
    assert log_of(tmp_path) == []


# Nothing is unpickled


@pytest.mark.parametrize("package", [minibert, train_package], ids=lambda package: package.__name__)
def test_no_code_opens_or_writes_a_pickle(package: Any) -> None:
    """No module that pickles is imported, and torch.load, torch.save and allow_pickle are not
    named."""
    files = sorted(Path(package.__path__[0]).rglob("*.py"))
    assert len(files) > 5
    pickling = {
        "pickle",
        "_pickle",
        "cPickle",
        "cloudpickle",
        "dill",
        "joblib",
        "shelve",
        "marshal",
    }
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} | {
                    f"torch.{alias.name}" for alias in node.names if node.module == "torch"
                }
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = {f"{node.value.id}.{node.attr}"}
            elif isinstance(node, ast.keyword):
                names = {node.arg or ""}
            forbidden = names & {*pickling, "torch.load", "torch.save", "allow_pickle"}
            assert not forbidden, (file, ast.unparse(node))


# What a run leaves


TEXTS = ["play some songs in new york", "bob, rain please?", "sun", "a b unknown words"]


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of all kinds of tasks, and the model, tasks, encoder and test items that it had in
    memory at its end."""
    run = tmp_path_factory.mktemp("finished") / "run"
    kept: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        save = run_module.save_run
        patch.setattr(
            run_module,
            "save_run",
            lambda *arguments: kept.update(saved=arguments) or save(*arguments),
        )
        settings = world.settings(
            world.sentences, world.pairs, world.scores, pooling="mean, intent=cls, score=max"
        )
        train(settings, run)
    return run, kept["saved"]


def test_the_run_predicts_as_the_model_in_memory(world: World, finished: tuple[Path, Any]) -> None:
    run, (_, _, model, tasks, split_words, *_) = finished
    items = assemble(world.settings(world.sentences, world.pairs, world.scores)).test
    again = load_run(run)
    assert predict(again.model, again.tasks, items) == predict(model, tasks, items)
    assert not differing(weights(again.model), weights(model))
    assert [(t.name, t.kind, t.labels, getattr(t, "pooling", None)) for t in again.tasks] == [
        (t.name, t.kind, t.labels, getattr(t, "pooling", None)) for t in tasks
    ]
    assert again.splitting == split_words
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for item, line, predicted in zip(items, lines, predict(model, tasks, items), strict=True):
        for name, label in item.example.labels.items():
            found = predicted[name].label
            assert line[name]["gold"] == (list(label) if isinstance(label, tuple) else label)
            assert line[name]["predicted"] == (list(found) if isinstance(found, tuple) else found)


def test_settings_repeat_the_run(finished: tuple[Path, Any], tmp_path: Path) -> None:
    run, _ = finished
    again = load_run(run).settings
    train(again, tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(run)
    assert asdict(again)["pooling"] == "mean, intent=cls, score=max"


def test_the_encoder_opens_everywhere(finished: tuple[Path, Any]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    run, (_, encoder, *_) = finished
    expected = encoder.encode(TEXTS)
    ours = SentenceEncoder.from_pretrained(run / "model", device="cpu")
    assert np.array_equal(ours.encode(TEXTS), expected)
    theirs = sentence_transformers.SentenceTransformer(str(run / "model"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), expected, rtol=0, atol=1e-6)
    bert = transformers.AutoModel.from_pretrained(run / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = bert(**inputs).last_hidden_state
        mine = Bert.from_pretrained(run / "model")(inputs["input_ids"], inputs["attention_mask"])
    mask = inputs["attention_mask"].unsqueeze(-1)
    np.testing.assert_allclose((states * mask).sum(1) / mask.sum(1), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(states * mask, mine * mask, rtol=0, atol=2e-6)


def test_the_encoder_pools_as_the_pairs_were_trained(world: World, tmp_path: Path) -> None:
    """Else the saved model would give other cosines than those that it was trained and measured
    by."""
    train(world.settings(world.pairs, pooling="cls", epochs=1), tmp_path / "run")
    encoder = SentenceEncoder.from_pretrained(tmp_path / "run/model", device="cpu")
    assert encoder.settings.pooling == "cls"
    lines = [
        json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()
    ]
    first, second = (
        encoder.encode([line[key] for line in lines], normalize=True) for key in ("text", "second")
    )
    cosines = (first * second).sum(1)
    np.testing.assert_allclose(
        cosines, [line["cosine"]["predicted"] for line in lines], rtol=0, atol=1e-6
    )


def test_the_best_weights_are_what_is_left(world: World, tmp_path: Path) -> None:
    train(world.settings(epochs=3), tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    last = read_tensors(checkpoints(tmp_path / "run")[-1] / "tensors.safetensors")
    left = trained(tmp_path / "run")
    left.pop("bert.embeddings.word.weight")  # a checkpoint holds the rows of the words that occur
    assert not differing(left, {name: last[f"best.{name}"] for name in left})
    assert metrics["best_step"] < metrics["steps"]  # so the last weights are others
    assert differing(left, {name: last[f"model.{name}"] for name in left})


# Fine-tuned models for transformers


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an intent and a score by the pooler, of slots, and of pairs."""
    world = make_world(tmp_path_factory.mktemp("pooled"))
    write_model(world.model, pooler=True)
    settings = world.settings(
        world.sentences, world.pairs, world.scores, pooling="pooler, cosine=mean", epochs=4
    )
    train(settings, world.model.parent / "run")
    return world.model.parent / "run"


def open_for_transformers(folder: Path, kind: str) -> Any:
    """What transformers makes of a folder, in eval mode; nothing of it is missing or unexpected."""
    transformers = pytest.importorskip("transformers")
    model, problems = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(problems.values()), problems
    assert model.config.architectures == [kind]
    return model.eval()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("intent", "BertForSequenceClassification"),
        ("score", "BertForSequenceClassification"),
        ("slots", "BertForTokenClassification"),
    ],
)
def test_transformers_computes_what_our_head_computes(pooled: Path, name: str, kind: str) -> None:
    """Its tokenizer, encoder and head, from the folder alone: the scores within 1e-5, and the
    labels' names."""
    transformers = pytest.importorskip("transformers")
    theirs = open_for_transformers(pooled / "transformers" / name, kind)
    inputs = transformers.AutoTokenizer.from_pretrained(pooled / "transformers" / name)(
        TEXTS, padding=True, return_tensors="pt"
    )
    run = load_run(pooled)
    layout = Padded(inputs["attention_mask"])
    hidden = run.model.bert(inputs["input_ids"], layout=layout)
    head = run.model.heads[name]
    mine = head(hidden) if name == "slots" else head(hidden, layout, run.model.bert.pooler)
    if name == "score":  # what the head says is of mean 0 and variance 1
        task = next(task for task in run.tasks if task.name == name)
        assert isinstance(task, SentenceRegression)
        mine = task.offset + task.scale * mine
    scores = theirs(**inputs).logits
    if name == "slots":
        mine, scores = mine[layout.mask], scores[layout.mask]
    torch.testing.assert_close(mine, scores, rtol=0, atol=1e-5)
    assert scores.std() > 0.01  # or any head would do
    (task,) = (task for task in run.tasks if task.name == name)
    names = [theirs.config.id2label[i] for i in range(len(theirs.config.id2label))]
    assert names == (list(task.labels) or ["score"])
    assert {theirs.config.label2id[label] for label in names} == set(range(len(names)))
    assert theirs.config.problem_type == ("regression" if name == "score" else None)


def test_transformers_own_pipelines_say_what_train_predict_says(pooled: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = load_run(pooled)
    examples = [one.example for one in from_lines(TEXTS, run.splitting, run.tasks)]
    items = prepare(examples, run.encoder.tokenizer, run.tasks)
    pipe = transformers.pipeline(
        "text-classification", model=str(pooled / "transformers/intent"), device="cpu"
    )
    for text, predicted in zip(TEXTS, predict(run.model, run.tasks, items), strict=True):
        (found,) = pipe(text)
        assert found["label"] == predicted["intent"].label
        assert found["score"] == pytest.approx(predicted["intent"].probability, abs=1e-5)


def test_what_transformers_has_no_class_for_is_not_written(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head on the mean: BertForSequenceClassification would give other scores. The cosine of a
    pair has no head, and needs no word of it."""
    train(
        world.settings(world.sentences, world.pairs, epochs=1, freeze="backbone"), tmp_path / "run"
    )
    assert os.listdir(tmp_path / "run/transformers") == ["slots"]
    said = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "not saved for transformers" in line
    ]
    assert [line.partition(":")[0] for line in said] == ["intent"]


@pytest.mark.parametrize(
    ("name", "folder"), [("stars/5", "stars%2F5"), ("/a\\b", "%2Fa%5Cb"), ("..", "%2E.")]
)
def test_a_task_of_any_name_has_a_folder_inside_the_run(
    name: str, folder: str, tmp_path: Path
) -> None:
    encoder = SentenceEncoder.from_pretrained(write_model(tmp_path / "model"))
    tasks: list[Task] = [TokenTagging(name, ("O",))]
    model = JointModel(encoder.bert, tasks)
    save_for_transformers(tmp_path / "run", encoder.tokenizer, model, tasks, facts={}, training="")
    assert os.listdir(tmp_path / "run/transformers") == [folder]
    assert (tmp_path / "run/transformers" / folder / "model.safetensors").exists()


def test_an_encoder_is_fine_tuned_from_what_was_saved_with_a_head(
    pooled: Path, world: World, tmp_path: Path
) -> None:
    """Ours from RUN/transformers, and one by transformers of another class."""
    ours = pooled / "transformers/slots"
    transformers = pytest.importorskip("transformers")
    kind = transformers.BertForSequenceClassification
    kind.from_pretrained(pooled / "transformers/intent").save_pretrained(tmp_path / "theirs")
    shutil.copy(ours / "vocab.txt", tmp_path / "theirs")
    before = weights(load_run(pooled).model.bert)
    for model, has_pooler in ((ours, False), (tmp_path / "theirs", True)):
        run = tmp_path / f"run-{has_pooler}"
        train(replace(world.settings(epochs=1, freeze="backbone"), model=str(model)), run)
        after = weights(Bert.from_pretrained(run / "model"))
        assert ("pooler.dense.weight" in after) is has_pooler
        assert not differing(after, {name: before[name] for name in after})


def test_model_cards_name_base_data_metrics_and_no_path(pooled: Path) -> None:
    cards = {
        file.parent.name: file.read_text(encoding="utf-8") for file in pooled.rglob("README.md")
    }
    assert set(cards) == {"model", "intent", "score", "slots"}
    for name, card in cards.items():
        _, facts, text = card.split("---\n", 2)
        head = yaml.safe_load(facts)
        assert "base_model" not in head  # a folder is none that the Hub has
        assert head["library_name"] == (
            "sentence-transformers" if name == "model" else "transformers"
        )
        assert "from tiny-bert on sentences, pairs, scores" in text
        accuracy = metrics_of(pooled)["test"]["intent"]["accuracy"]
        assert f"{100 * accuracy:.2f}" in text
        assert "epochs = 4" in text
        assert str(pooled.parent) not in card


def test_a_model_card_names_what_the_hub_has() -> None:
    facts, _ = model_card(Settings(data=("newsroom",)), [], {})
    assert facts == {"base_model": "sentence-transformers/all-MiniLM-L6-v2"}
    settings = Settings(data=("hub:a/b/c", "hub:d/e", "x/y"), model="google-bert/bert-base-uncased")
    facts, _ = model_card(settings, [], {})
    assert facts == {"base_model": "google-bert/bert-base-uncased", "datasets": ["a/b", "d/e"]}


def described(**changes: Any) -> Callable[[Path], Any]:
    """Changes the first task in tasks.json."""

    def spoil(run: Path) -> None:
        content = json.loads((run / "tasks.json").read_text())
        content["tasks"][0] |= changes
        (run / "tasks.json").write_text(json.dumps(content))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "tasks.json").unlink(), "is no finished run: it has no tasks.json"),
        (lambda run: (run / "tasks.json").write_text("{}"), "does not describe tasks"),
        (
            lambda run: (run / "tasks.json").write_text(
                '{"tasks": [{"kind": "x", "name": "a", "labels": []}]}'
            ),
            "tasks",
        ),
        (described(pooling=["mean"]), "pooling = .* must be a text"),
        (described(pooling="best"), "pooling of intent: 'best' is not one of"),
        (described(labels=[1, 2, 3]), "labels.0. = 1 must be a text"),
        (described(labels="abc"), "labels must be a list"),
        (described(overlap=-1), "overlap = -1 must be at least 1"),
        (described(name=""), "no task can be named ''"),
        (described(name="forward"), "no task can be named 'forward'"),
        (described(name=7), "name = 7 must be a text"),
        (described(name="slots"), "two tasks of one name"),
        (
            lambda run: (run / "heads.safetensors").write_bytes(b"no"),
            "heads.safetensors is not a sound safetensors",
        ),
        (
            lambda run: save_tensors({"x": torch.zeros(1)}, run / "heads.safetensors"),
            "belongs to another model",
        ),
        (lambda run: (run / "settings.toml").write_text("epoch = 3"), "the nearest is 'epochs'"),
    ],
)
def test_a_damaged_run_is_one_clear_error(
    world: World, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    train(world.settings(epochs=1, freeze="all"), tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        load_run(tmp_path / "run")
