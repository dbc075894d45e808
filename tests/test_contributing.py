"""CONTRIBUTING.md: each example, as printed, does what its section says."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minibert import Bert, BertConfig, Packed, Padded, heads
from minibert.files import InputError, write_text
from minibert.heads import pool
from minibert.program import Interrupted
from tests.documents import ROOT, apply, blocks
from tests.training import World, make_world, metrics_of, outcome
from train import fit
from train import run as run_module
from train.data.read import FILE_READERS
from train.load import load_data
from train.optimizer import rate_factor
from train.saved import load_run
from train.settings import Settings
from train.tasks import KINDS
from train.words import only_decay_moves_unused_rows

DOCUMENT = "CONTRIBUTING.md"


def test_a_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "POOLINGS", dict(heads.POOLINGS))
    exec(*blocks(DOCUMENT, "python", "A pooling"), {})
    lengths = [3, 3, 1, 6]
    hidden = torch.randn(4, 6, 5)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    expected = torch.stack([rows[:n].amin(0) for rows, n in zip(hidden, lengths, strict=True)])
    assert torch.equal(pool(hidden, Padded(mask), "min"), expected)
    assert torch.equal(pool(hidden[mask], Packed(lengths), "min"), expected)


BIAS = """
import torch
from minibert import Bert, BertConfig, Packed
from minibert.fast import speed_up

torch.manual_seed(0)
config = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=100,
)
bert = Bert(config).double().eval()
lengths = [70, 9, 9, 3]
mask = torch.arange(70) < torch.tensor(lengths)[:, None]
ids = torch.randint(50, mask.shape)
plain = bert(ids, mask)[mask]
for layer in bert.layers:
    torch.nn.init.normal_(layer.attention.distance.weight)
padded = bert(ids, mask)[mask]
assert (padded - plain).abs().max() > 1e-3, "the bias does nothing"
found = [padded, bert(ids[mask], layout=Packed(lengths))]
speed_up(bert)
found += [bert(ids, mask)[mask], bert(ids[mask], layout=Packed(lengths))]
assert all(torch.allclose(padded, other, atol=1e-10) for other in found)
found[-1].sum().backward()
assert bert.layers[0].attention.distance.weight.grad.abs().sum() > 0
"""


def test_a_relative_position_bias(tmp_path: Path) -> None:
    """The two changes as printed, in a copy of the library: every layout computes with the bias."""
    shutil.copytree(ROOT / "minibert", tmp_path / "minibert")
    model = tmp_path / "minibert" / "model.py"
    source = model.read_text(encoding="utf-8")
    for diff in blocks(DOCUMENT, "diff", "A relative position bias"):
        source = apply(diff, source)
    model.write_text(source, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", BIAS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_fast_variant_of_a_function() -> None:
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(*blocks(DOCUMENT, "python", "A fast variant of a function"), names)
    fast = names["bert"]
    assert isinstance(fast, Bert)
    norms = [part for part in fast.modules() if isinstance(part, nn.LayerNorm)]
    assert {type(part).__name__ for part in norms} == {"FormulaLayerNorm"}
    plain = Bert(BertConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=2))
    plain.load_state_dict(fast.state_dict())
    ids = torch.randint(1000, (3, 7))

    def outcome(bert: Bert) -> list[Tensor]:
        states = bert.eval()(ids)
        states.square().sum().backward()
        return [states, bert.layers[0].get_parameter("attention_norm.weight").grad]  # type: ignore

    for found, expected in zip(outcome(fast), outcome(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def program(heading: str, folder: Path) -> Path:
    """The one Python block under a heading, as the file that its first line names."""
    (block,) = blocks(DOCUMENT, "python", heading)
    file = folder / block.partition("\n")[0].removeprefix("# ")
    file.write_text(block, encoding="utf-8")
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

    patch.setattr(fit, "rate_factor", rate)


# A kind of task


def test_a_kind_of_ones_own_trains_predicts_evaluates_and_is_compared(
    world: World, tmp_path: Path
) -> None:
    """Beside other tasks, by the user's own program alone."""
    file = program("A kind of task", tmp_path)
    settings = world.settings(world.scores, world.sentences, epochs=1, compare_single=True)
    write_text(tmp_path / "recipe.toml", settings.toml())
    run = tmp_path / "run"
    printed = python(file, "run", "--recipe", tmp_path / "recipe.toml", "--output", run)
    assert "score (robust, 0 to " in printed
    assert re.search(r"dev .*score spearman -?\d\.\d{4} .* median_error \d\.\d{4} ", printed)
    compared = json.loads((run / "compare.json").read_text())
    assert compared["single"].keys() == {"score", "intent", "slots"}
    assert compared["single"]["score"].keys() == compared["joint"]["score"].keys()
    kinds = {
        task["name"]: task["kind"] for task in json.loads((run / "tasks.json").read_text())["tasks"]
    }
    assert kinds == {"score": "robust", "intent": "sentence", "slots": "tokens"}

    evaluated = json.loads(python(file, "evaluate", run, "--data", world.scores, "--json"))
    tested = metrics_of(run)["test"]["score"]
    again = {name: evaluated["score"][name] for name in tested}
    assert again == pytest.approx(tested, rel=1e-6)
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
    (data,) = load_data(Settings(data=(str(tmp_path),)))
    assert [(e.text, e.labels, e.where) for e in data.splits["train"]] == [
        ("how fine", {"label": "good"}, f"{tmp_path / 'train.ft'}, line 1"),
        ("how bad", {"label": "bad"}, f"{tmp_path / 'train.ft'}, line 2"),
    ]
    (tmp_path / "dev.ft").write_text(good + "bad\n")
    with pytest.raises(InputError, match=r"dev\.ft, line 2: 'bad' should read __label__NAME text"):
        load_data(Settings(data=(str(tmp_path),)))


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
