"""CONTRIBUTING.md: every program in it runs as it is printed there.

Evidence: the blocks are cut out of the text and run, the first as a program of a user's own.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from minibert.files import InputError
from tests.training import World, make_world, metrics_of, outcome
from train import run as run_module
from train.data.read import FILE_READERS
from train.optimizer import rate_factor
from train.program import Interrupted
from train.saved import load_run
from train.settings import Settings
from train.setup import load_data
from train.tasks import KINDS
from train.words import only_decay_moves_unused_rows

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def program(heading: str, folder: Path) -> Path:
    """The one Python block under a heading, as the file that its first line names."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", section, re.DOTALL)
    file = folder / block[1]
    file.write_text(block[0], encoding="utf-8")
    return file


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(file: Path, *arguments: Any) -> str:
    """What a program prints; it must succeed."""
    command = [sys.executable, str(file), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def interrupted_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """At the start of a step the program is asked to stop."""

    def rate(number: int, total: int, settings: Settings) -> float:
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate_factor(number, total, settings)

    patch.setattr(run_module, "rate_factor", rate)


# A kind of task


def test_a_kind_of_ones_own_trains_predicts_evaluates_and_is_compared(
    world: World, tmp_path: Path
) -> None:
    """Beside other tasks, by the user's own program alone."""
    file = program("A kind of task", tmp_path)
    settings = world.settings(world.scores, world.sentences, epochs=1, compare_single=True)
    settings.save(tmp_path / "recipe.toml")
    run = tmp_path / "run"
    printed = python(file, "run", "--recipe", tmp_path / "recipe.toml", "--output", run)
    assert "score (robust, no labels)" in printed
    assert re.search(r"dev .*score spearman -?\d\.\d{4} median_error \d\.\d{4}  ", printed)
    compared = json.loads((run / "compare.json").read_text())
    assert compared["single"].keys() == {"score", "intent", "slots"}
    assert compared["single"]["score"].keys() == compared["joint"]["score"].keys()
    kinds = {
        task["name"]: task["kind"] for task in json.loads((run / "tasks.json").read_text())["tasks"]
    }
    assert kinds == {"score": "robust", "intent": "sentence", "slots": "tokens"}

    evaluated = json.loads(python(file, "evaluate", run, "--data", world.scores))
    assert evaluated["score"] == pytest.approx(metrics_of(run)["test"]["score"], rel=1e-6)
    (record,) = map(json.loads, python(file, "predict", run, "play in rome", "--json").splitlines())
    assert record["score"].keys() == {"score"}
    shown = python(file, "predict", run, "play in rome")
    assert f"  score: about {record['score']['score']:.1f}\n" in shown

    with pytest.raises(InputError, match="there is no kind of task 'robust'"):
        load_run(run)  # by our kinds alone


def test_a_kind_of_ones_own_minimises_its_own_loss_and_resumes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logged loss of the first step is Huber's, written out; an interrupted run ends as an
    uninterrupted one."""
    robust = load(program("A kind of task", tmp_path)).RobustRegression
    kinds = (robust, *KINDS)
    settings = world.settings(world.scores, monitor="score.median_error", dropout=0.0)
    run_module.train(settings, tmp_path / "whole", kinds=kinds)
    with monkeypatch.context() as patch:
        interrupted_at(3, patch)
        with pytest.raises(Interrupted):
            run_module.train(settings, tmp_path / "run", kinds=kinds)
    assert run_module.main(["--resume", str(tmp_path / "run")], kinds=kinds) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    history = metrics_of(tmp_path / "run")["history"]
    errors = [entry["dev"]["score"]["median_error"] for entry in history]
    best = history[errors.index(min(errors))]["step"]
    assert metrics_of(tmp_path / "run")["best_step"] == best  # the lower the better

    task = robust("score")
    logits, targets = torch.tensor([0.5, 3.0, -4.0]), torch.tensor([0.0, 0.0, 0.0])
    assert float(task.criterion(logits, targets)) == 0.5 * 0.25 + (3.0 - 0.5) + (4.0 - 0.5)


# A data format


def test_a_data_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILE_READERS, ".ft", None)  # so that it is taken out again
    load(program("A data format", tmp_path))
    good = "__label__good how fine\n"
    for split in ("train", "dev"):
        (tmp_path / f"{split}.ft").write_text(good + "__label__bad how bad\n")
    data = load_data(str(tmp_path), 0)
    assert [(e.text, e.labels, e.where) for e in data.splits["train"]] == [
        ("how fine", {"label": "good"}, f"{tmp_path / 'train.ft'}, line 1"),
        ("how bad", {"label": "bad"}, f"{tmp_path / 'train.ft'}, line 2"),
    ]
    (tmp_path / "dev.ft").write_text(good + "bad\n")
    with pytest.raises(InputError, match=r"dev\.ft, line 2: 'bad' should read __label__NAME text"):
        load_data(str(tmp_path), 0)


# An optimizer


def test_an_optimizer_of_ones_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains, the whole word table with it, and an interrupted run ends as an uninterrupted
    one."""
    nadam = load(program("An optimizer", tmp_path)).nadam
    assert not only_decay_moves_unused_rows(nadam)
    settings = world.settings()
    run_module.train(settings, tmp_path / "whole", optimizer=nadam)
    run_module.train(settings, tmp_path / "ours")
    with monkeypatch.context() as patch:
        interrupted_at(4, patch)
        with pytest.raises(Interrupted):
            run_module.train(settings, tmp_path / "run", optimizer=nadam)
    assert run_module.main(["--resume", str(tmp_path / "run")], optimizer=nadam) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole") != outcome(tmp_path / "ours")
