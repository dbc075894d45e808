"""Training that is killed, stopped, refused by the disk or short of memory.

Evidence: processes that are killed before file operations and at random moments, signals that come
at chosen places, and errors that are made to happen; then the same command again, and all files of
the run compared with those of a run that was left alone.
"""

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from torch import Tensor

from minibert.files import InputError, write_text
from minibert.program import Interrupted
from tests.training import (
    World,
    assemble_exact,
    assert_same,
    make_world,
    outcome,
    step,
)
from tools.faults.training import (
    Laboratory,
    disturb_operation,
    killed,
    laboratory,
    refused,
    soak,
    stop_at_random,
)
from train import fit as fit_module
from train import run as run_module
from train.batches import Batch
from train.checkpoint import save_checkpoint
from train.evaluation import evaluate
from train.model import JointModel
from train.run import main, train
from train.settings import Settings
from train.step import forward_backward
from train.tasks.tagging import TokenTagging


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    with laboratory() as made:
        yield made


# Killed, or refused by the disk (python -m tools.faults tries all)


@pytest.mark.parametrize("operation", range(2, 170, 15))
def test_killed_before_a_file_operation_and_resumed(lab: Laboratory, operation: int) -> None:
    assert disturb_operation(lab, "thawing", killed, operation, -signal.SIGKILL) == (True, "")


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_and_resumed(lab: Laboratory, seed: int) -> None:
    _, fault = stop_at_random(lab, "thawing", [signal.SIGKILL], random.Random(seed))
    assert fault == ""


@pytest.mark.parametrize("operation", [1, 3, 30, 100, 150])
def test_a_full_disk_is_one_message_and_resumed(lab: Laboratory, operation: int) -> None:
    assert disturb_operation(lab, "thawing", refused, operation, 2) == (True, "")


def at_call(
    count: int, event: Callable[[], object], function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function; before its call of this number, counted from 1, something happens."""
    numbers = itertools.count(1)

    def disturbed(*arguments: Any, **named: Any) -> Any:
        if next(numbers) == count:
            event()
        return function(*arguments, **named)

    return disturbed


def first(function: Callable[..., Any], number: signal.Signals) -> Callable[..., Any]:
    """The function, which gets a signal when it is called first."""
    return at_call(1, lambda: os.kill(os.getpid(), number), function)


# Before the first checkpoint


def command(settings: Settings, folder: Path) -> list[str]:
    write_text(folder / "recipe.toml", settings.toml())
    return ["--recipe", str(folder / "recipe.toml"), "--output", str(folder / "run")]


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome of two epochs without a fault."""
    folder = tmp_path_factory.mktemp("alone")
    train(world.settings(), folder / "run")
    return outcome(folder / "run")


@pytest.mark.parametrize("resumes", [False, True], ids=["the same command", "--resume"])
def test_a_run_without_a_checkpoint_starts_from_the_beginning(
    world: World,
    alone: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    resumes: bool,
) -> None:
    """The folder is that of a process that was killed: what it logged and had half written goes."""
    run, again = tmp_path / "run", command(world.settings(), tmp_path)
    write_text(run / "settings.toml", replace(world.settings(), output=str(run)).toml())
    write_text(run / "log.jsonl", '{"step": 1, "epoch": 1, "norm": 9.9}\n{"st')
    write_text(run / ".heads.safetensors.77.tmp", "half")
    write_text(run / "checkpoints/.step-00000001.tmp/.state.json.77.tmp", "half")
    assert main(["--resume", str(run)] if resumes else again) == 0
    has_said = f"{run} has no checkpoint yet: the run starts from the beginning\n"
    assert (has_said in capsys.readouterr().out) is resumes
    assert outcome(run) == alone
    assert [path for path in run.rglob(".*") if path.name != ".lock"] == []


@pytest.mark.parametrize("name", ["a" * 300, "x\0y", "file", "file/run", "/dev/null", "/proc/x"])
def test_an_output_that_can_be_no_folder(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").touch()
    settings = replace(world.settings(), output=str(tmp_path / name))
    write_text(tmp_path / "recipe.toml", settings.toml())
    assert main(["--recipe", str(tmp_path / "recipe.toml")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write ")


@pytest.mark.parametrize("what", ["", "log.jsonl", "checkpoints", "settings.toml"])
def test_what_is_removed_under_a_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Without its folder, the run is one message; what it can write again, it writes again."""
    run = tmp_path / "run"

    def remove() -> None:
        found = run / what
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    settings = world.settings(epochs=1, save_steps=1)
    monkeypatch.setattr(fit_module, "forward_backward", at_call(3, remove, forward_backward))
    if not what:
        with pytest.raises(InputError, match=r"cannot write .*log\.jsonl: No such file"):
            train(settings, run)
        return
    train(settings, run)
    assert json.loads((run / "metrics.json").read_text())["steps"] == 6


# Signals at any place


STOP: dict[str, Any] = {"epochs": 1, "accumulate": 2, "freeze": "embeddings"}
# what a run does -> whether it can be resumed from there
PLACES = {
    "train.setup.load_data": False,
    "train.setup.tokenize": False,
    "train.setup.first_weights": False,
    "train.fit.plan_steps": True,
    "train.fit.PrefixCache": True,
    "train.fit.forward_backward": True,
    "train.fit.evaluate": True,
    "train.fit.save_checkpoint": True,
    "train.run.evaluate": True,
    "train.run.save_run": True,
    "train.run.write_predictions": True,
    "train.run.write_report": True,
    "train.run.write_json": True,
}


@pytest.fixture(scope="module")
def short(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome of the settings STOP without a fault."""
    folder = tmp_path_factory.mktemp("short")
    train(world.settings(**STOP), folder / "run")
    return outcome(folder / "run")


@pytest.mark.parametrize(("i", "place"), list(enumerate(PLACES)))
def test_a_signal_at_any_place(
    world: World,
    short: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    i: int,
    place: str,
) -> None:
    """The program stops there, and says what to do; done so, it ends as if nothing had been."""
    number, status = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[i % 2]
    run, again = tmp_path / "run", command(world.settings(**STOP), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(place, first(resolve_name(place), number))
        assert main(again) == status
    error = capsys.readouterr().err
    if PLACES[place]:
        assert error.endswith(f"; to go on: python -m train.run --resume {run}\n")
        again = ["--resume", str(run)]
    else:
        assert error == "stopped before training began: start it again\n"
        assert not run.exists()
    assert not (run / "metrics.json").exists()
    assert main(again) == 0
    assert outcome(run) == short


def test_a_signal_while_matplotlib_is_loaded(
    world: World, short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pybind11 makes an ImportError of it."""

    def stopped(*_: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as stop:
            raise ImportError("initialization failed") from stop

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "draw_pictures", stopped)
        assert main(command(world.settings(**STOP), tmp_path)) == 143
    assert main(["--resume", str(tmp_path / "run")]) == 0
    assert outcome(tmp_path / "run") == short


def test_killed_while_a_checkpoint_of_the_same_step_is_replaced(
    world: World, short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the evaluation that was stopped gives way to the one after the evaluation."""
    run, settings = tmp_path / "run", world.settings(**STOP, save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "evaluate", first(evaluate, signal.SIGINT))
        with pytest.raises(Interrupted):
            train(settings, run)
    replace_file = os.replace

    def cut(source: Any, target: Any) -> None:
        if Path(target).name == "state.json":
            raise ZeroDivisionError  # as good as a power cut: nobody expects it
        replace_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(ZeroDivisionError):
            train(settings, run, resume=True)
    train(settings, run, resume=True)
    assert outcome(run) == short


def test_a_signal_while_the_last_checkpoint_is_written(
    world: World, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not get lost: nothing asks again before the run is tested."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "save_checkpoint", first(save_checkpoint, signal.SIGINT))
        patch.setattr(run_module, "save_run", lambda *_: pytest.fail("the run goes on"))
        with pytest.raises(Interrupted, match=r"^stopped after step 12$"):
            train(world.settings(), run)
    train(world.settings(), run, resume=True)
    assert outcome(run) == alone


def test_a_run_in_an_event_loop_is_stopped_by_a_signal_too(
    world: World, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def training(resume: bool) -> None:
        train(world.settings(), tmp_path / "run", resume)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "evaluate", first(evaluate, signal.SIGINT))
        with pytest.raises(Interrupted, match=r"^stopped after step 6$"):
            asyncio.run(training(resume=False))
    asyncio.run(training(resume=True))
    assert outcome(tmp_path / "run") == alone


def test_a_comparison_goes_on_where_it_was_stopped(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The joint run and the first task alone are not trained again. What goes on is the comparison,
    not only the task that was stopped."""
    settings = world.settings(epochs=1, compare_single=True, freeze="backbone")
    run = tmp_path / "run"
    (tmp_path / "whole").mkdir()
    assert main(command(settings, tmp_path / "whole")) == 0
    trained: list[Path] = []

    def noting(settings: Settings, run: Path, *rest: Any, **more: Any) -> Any:
        trained.append(run)
        return train(settings, run, *rest, **more)

    third = at_call(3, lambda: os.kill(os.getpid(), signal.SIGTERM), noting)
    monkeypatch.setattr(run_module, "train", third)
    assert main(command(settings, tmp_path)) == 143
    assert trained == [run, run / "single-intent"]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "evaluate", first(evaluate, signal.SIGTERM))
        assert main(["--resume", str(run)]) == 143
    again = f"to go on: python -m train.run --resume {run}\n"
    assert capsys.readouterr().err == f"stopped after step 6; {again}"
    assert main(["--resume", str(run)]) == 0
    assert trained[2:] == [run / "single-slots"] * 2
    compared, expected = (
        (folder / "compare.json").read_text() for folder in (run, tmp_path / "whole/run")
    )
    assert compared == expected


def test_a_clock_that_stands_still(
    world: World, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 7.0)
    train(world.settings(), tmp_path / "run")
    assert outcome(tmp_path / "run") == alone


# Out of memory


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU, as it were, that has room for two sequences. Returns the sizes that are tried."""
    forward, tried = JointModel.forward, list[int]()

    def limited(model: JointModel, batch: Batch) -> Tensor:
        tried.append(len(batch.sequences))
        if len(batch.sequences) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(model, batch)

    monkeypatch.setattr(JointModel, "forward", limited)
    return tried


def test_a_step_that_does_not_fit_is_computed_in_pieces(
    world: World, small_memory: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same gradient and losses, though batches before it have left theirs already."""
    parts = assemble_exact(world.settings(dropout=0.0))
    items = parts.labelled[0]
    batches = [items[:2], items[2:9]]
    expected = [step(parts, [[item] for item in items[:9]])]
    small_memory.clear()
    capsys.readouterr()
    found, losses = step(parts, batches)
    assert small_memory[:5] == [2, 7, 2, 4, 2]
    told = "out of memory: this step is computed again, in pieces of {} sequences\n"
    assert capsys.readouterr().out == told.format(4) + told.format(2)
    assert_same(found, expected[0][0], 1e-12)
    assert losses.sums == pytest.approx(expected[0][1].sums, rel=1e-12)


def test_a_run_that_does_not_fit_is_the_run_in_pieces(
    world: World, tmp_path: Path, small_memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout too is drawn as if nothing had failed before."""
    monkeypatch.setattr("train.evaluation.BATCH_TOKENS", 1)
    settings = world.settings(epochs=1, dropout=0.3)
    train(replace(settings, mini_batch_size=2), tmp_path / "pieces")
    assert max(small_memory) == 2
    train(settings, tmp_path / "run")
    assert max(small_memory) == 8
    names = ("model/model.safetensors", "heads.safetensors", "log")
    found, expected = (outcome(tmp_path / name) for name in ("run", "pieces"))
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


def test_gradients_that_are_logged_need_each_batch_at_once(
    world: World, tmp_path: Path, small_memory: list[int]
) -> None:
    with pytest.raises(InputError, match=r"out of memory with 8 sequences of .*: lower batch_size"):
        train(world.settings(log_gradients=True), tmp_path / "run")


@pytest.mark.parametrize("name", ["forward", "loss"])
@pytest.mark.parametrize("in_training", [True, False], ids=["training", "evaluation"])
def test_a_machine_without_memory_is_one_message(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, in_training: bool
) -> None:
    """What PyTorch itself raises for want of memory. Another error stays what it is."""
    kind = JointModel if name == "forward" else TokenTagging
    function = getattr(kind, name)

    def greedy(self: Any, *rest: Any) -> Any:
        if torch.is_grad_enabled() is in_training:
            torch.empty(asked)
        return function(self, *rest)

    monkeypatch.setattr(kind, name, greedy)
    asked = 2**60
    with pytest.raises(InputError, match=r"out of memory with \d+ sequences of .* line \d+: lower"):
        train(world.settings(), tmp_path / "run")
    asked = -1
    with pytest.raises(RuntimeError, match="negative dimension"):
        train(world.settings(), tmp_path / "again")


# Long runs


def test_memory_and_open_files_stay_level(tmp_path: Path) -> None:
    """A bounded version of the soak of python -m tools.faults."""
    found = soak(tmp_path, steps=150)
    assert found.open_files[0] == found.open_files[-1]
    assert found.growth < 8
