"""Layers sharded over two processes learn what one process learns.

torchrun runs this file once, in two processes; `main` trains the runs of CASES in both. The tests
train the same alone, and compare what both have left.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minibert.files import InputError
from minibert.formats.tensors import read_tensors
from tests.training import (
    World,
    log_of,
    make_world,
    metrics_of,
    outcome,
    pair,
    sentence,
    write_splits,
)
from train import run as run_module
from train.checkpoint import checkpoints
from train.launch import launched
from train.optimizer import adamw
from train.settings import Settings
from train.setup import assemble
from train.sharding import check_sharding
from train.world import ALONE
from train.world import World as Processes

ROOT = Path(__file__).parents[1]

# Each in float64 and without dropout.
CASES: dict[str, dict[str, Any]] = {
    # layers that begin to learn, and steps of three batches
    "thawed": {
        "accumulate": 3,
        "batch_size": 4,
        "freeze": "embeddings, layers.0-1",
        "unfreeze": "2: layers.1; 3: embeddings, layers.0",
        "epochs": 3,
        "loss": "uncertainty",
    },
    # a second batch of one sentence, of which one process has none; a frozen layer among others
    "uneven": {"batch_size": 43, "clip": 0.0, "freeze": "layers.1"},
    "contrastive": {"data": "together", "epochs": 8, "patience": 1, "lr": 0.02},
    "masked": {"text": "text", "batch_size": 4, "epochs": 1},
}


def settings_of(folder: Path, case: str) -> Settings:
    """The settings of a case, on the data that `prepared` has written."""
    world = World(*(folder / name for name in ("tiny-bert", "sentences", "pairs", "scores")))
    changes = dict(CASES.get(case, {}))
    data = (folder / changes.pop("data"),) if "data" in changes else ()
    if "text" in changes:
        changes |= {"data": (), "text": (str(folder / changes["text"]),)}
    return world.settings(*data, **{"dropout": 0.0, **changes})


def train(
    settings: Settings,
    run: Path,
    world: Processes = ALONE,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> None:
    """A whole run, but for the page that people look at."""
    run.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "assemble", partial(assemble, dtype=dtype))
        for name in ("draw_pictures", "write_report"):
            patch.setattr(run_module, name, lambda *_: None)
        run_module.train(settings, run, world=world, **more)


def main(folder: Path) -> None:
    """What each of the two processes does."""
    with launched() as launch:
        world = launch.world
        for case in CASES:
            settings = replace(settings_of(folder, case), fsdp=True)
            train(settings, folder / "sharded" / case, world, torch.float64)

        # With dropout: at one go, and resumed. The optimizer notes what it has of each parameter.
        parts: list[tuple[str, int, int]] = []

        def noting(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            optimizer = adamw(groups)
            for group in groups:
                for p in group["params"]:
                    local = p.to_local() if hasattr(p, "to_local") else p
                    parts.append((group["unit"], local.numel(), p.numel()))
            return optimizer

        settings = replace(settings_of(folder, ""), fsdp=True)
        train(settings, folder / "sharded" / "float32", world)
        settings = replace(settings, dropout=0.2, save_steps=8, keep=9)
        train(settings, folder / "sharded" / "whole", world, optimizer=noting)
        (folder / f"parts-{world.rank}.json").write_text(json.dumps(parts))
        if world.is_first:
            shutil.copytree(folder / "sharded" / "whole", folder / "sharded" / "resumed")
            (folder / "sharded" / "resumed" / "metrics.json").unlink()
            for later in checkpoints(folder / "sharded" / "resumed")[1:]:
                shutil.rmtree(later)
        world.gather(None)
        train(settings, folder / "sharded" / "resumed", world, resume=True, optimizer=noting)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have trained all that is compared below."""
    folder = tmp_path_factory.mktemp("sharding")
    make_world(folder)
    write_splits(folder / "together", together, 26, 8)
    write_splits(folder / "plain", sentence, 40, 30)
    (folder / "text").mkdir()
    for split in ("train", "dev"):
        lines = (folder / "plain" / f"{split}.jsonl").read_text().splitlines()
        texts = [" ".join(json.loads(line)["words"]) for line in lines]
        (folder / "text" / f"{split}.txt").write_text("\n\n".join(texts), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "tests.test_sharding", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def together(dice: Any) -> dict[str, Any]:
    made = pair(dice)
    return {"anchor": made["text_a"], "positive": made["text_b"]}


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in what JSON holds, by their paths."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{name}.{i}")
    elif isinstance(value, int | float):
        yield name, value


def learnt(run: Path) -> dict[str, Tensor]:
    """What the last checkpoint holds: weights, the best weights, and the optimizer's moments."""
    tensors = read_tensors(checkpoints(run)[-1] / "tensors.safetensors")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("random.")}


def assert_like(sharded: Path, alone: Path, bound: float) -> None:
    """The curve of losses and gradient norms, the metrics of dev and test, and all that the last
    checkpoint holds. bound: relative to the largest number of a tensor, or to 1."""
    found, wanted = (
        dict(numbers({"log": log_of(run), "metrics": metrics_of(run)})) for run in (sharded, alone)
    )
    for values in (found, wanted):
        del values[".metrics.seconds"]
    assert found == pytest.approx(wanted, rel=bound, abs=bound)
    tensors, others = learnt(sharded), learnt(alone)
    assert tensors.keys() == others.keys()
    for name, tensor in others.items():
        if "attention.key.bias" not in name:  # its gradient is 0, but for rounding
            largest = float(tensor.abs().max())
            assert float((tensors[name] - tensor).abs().max()) <= bound * largest, name


@pytest.mark.parametrize("case", CASES)
def test_sharded_layers_learn_what_one_process_learns(
    folder: Path, tmp_path: Path, case: str
) -> None:
    settings = settings_of(folder, case)
    train(settings, tmp_path, dtype=torch.float64)
    if settings.patience:
        assert log_of(tmp_path)[-1]["step"] < settings.epochs * 4, "it stops early"
    assert_like(folder / "sharded" / case, tmp_path, 1e-9)


def test_in_float32_but_for_rounding(folder: Path, tmp_path: Path) -> None:
    train(settings_of(folder, ""), tmp_path)
    assert_like(folder / "sharded" / "float32", tmp_path, 3e-5)  # 3e-6 measured


def test_a_resumed_run_ends_in_the_same_bits(folder: Path) -> None:
    runs = folder / "sharded"
    assert outcome(runs / "resumed") == outcome(runs / "whole")


def test_each_process_holds_half_of_the_layers(folder: Path) -> None:
    """And all of what is no layer."""
    of_ranks = [json.loads((folder / f"parts-{rank}.json").read_text()) for rank in range(2)]
    assert len(of_ranks[0]) > 30
    for (unit, first, size), (_, second, _) in zip(*of_ranks, strict=True):
        if unit.startswith("layers."):
            assert first == second == size / 2
        else:
            assert first == second == size


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, 1, "torchrun"),
        ({"mini_batch_size": 4}, 2, "mini_batch_size = 4: .* Leave out mini_batch_size, or fsdp"),
        ({"log_gradients": True}, 2, "log_gradients = true: .* Leave out log_gradients, or fsdp"),
    ],
)
def test_what_cannot_be_sharded(changes: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_sharding(Settings(fsdp=True, **changes), Processes(0, size))


def test_an_older_pytorch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.fsdp import FSDPModule

    monkeypatch.delattr(FSDPModule, "set_force_sum_reduction_for_comms")
    with pytest.raises(InputError, match=r"needs PyTorch 2\.9 or later, and this is"):
        check_sharding(Settings(fsdp=True), Processes(0, 2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
