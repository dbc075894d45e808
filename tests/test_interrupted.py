"""Training that is killed, stopped, refused by the disk or short of memory.

Evidence: processes that are killed before file operations and at random moments, signals that come
at chosen places, and errors that are made to happen; then the same command again, and all files of
the run compared with those of a run that was left alone.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
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
    log_of,
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
from train.checkpoint import checkpoints, save_checkpoint
from train.cache import PrefixCache
from train.memory import is_out_of_memory
from train.model import JointModel
from train.run import main, train
from train.settings import Settings


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


# Signals at any place


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def first(function: Callable[..., Any], number: signal.Signals) -> Callable[..., Any]:
    """The function, which gets a signal when it is called first."""
    calls: list[int] = []

    def stopped(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            send(number)
        return function(*arguments, **named)

    return stopped


# what a run does -> whether it can be resumed from there
PLACES = {
    "train.setup.load_data": False,
    "train.setup.tokenize": False,
    "train.setup.fingerprint": False,
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


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_any_place(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    number: signal.Signals,
    status: int,
) -> None:
    """The program stops there, and says what to do; done so, it ends as if nothing had been."""
    settings = world.settings(epochs=1, accumulate=2, freeze="embeddings")
    run, again = tmp_path / "run", command(settings, tmp_path)
    module, _, name = place.rpartition(".")
    with monkeypatch.context() as patch:
        function = getattr({"train.fit": fit_module, "train.run": run_module}.get(module), name, 0)
        if not function:
            function = getattr(__import__(module, fromlist=[name]), name)
        patch.setattr(place, first(function, number))
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
    train(settings, tmp_path / "whole")
    assert outcome(run) == outcome(tmp_path / "whole")
