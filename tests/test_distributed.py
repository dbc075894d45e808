"""Several processes that train one model.

Evidence: for every kind of task, all that one process computes, in float64 to 1e-9; the files that
one process leaves; and processes that are killed, stopped, hung up and given other things to do.
"""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from minibert.devices import as_dtype
from minibert.tokenizer import Tokens
from tests import distributed
from tests.distributed import (
    CASES,
    SIZE,
    Job,
    absent,
    compute_all,
    computed,
    elsewhere,
    hanging,
    killed,
    nothing,
    of_other_version,
    short_of_memory,
    signalled,
    train_here,
    with_other,
    without_shared_disk,
    write_all,
)
from tests.training import metrics_of, outcome
from train.batches import Item
from train.data.examples import Example
from train.run import main
from train.tasks import KINDS
from train.tasks.masked_words import Filled
from train.tasks.records import Prediction
from train.wire import pack, unpack
from train.world import ALONE, World

EXACT, ROUNDED = 1e-9, 1e-5  # the bounds of float64 and of float32
FULL, HALF = torch.float64, torch.float32
# Squared errors and the answers to questions are computed in float32 in any model.
PARTLY = {"scores", "answers"}
BOUNDS = {(name, FULL): ROUNDED if name in PARTLY else EXACT for name in CASES} | {
    (name, HALF): ROUNDED for name in ("labels", "text", "vectors")
}
SIZES = (2, 4)  # numbers of processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_all(folder)
    return folder


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The plain values in it, by the path to each."""
    if isinstance(value, np.ndarray | set | frozenset | tuple):
        value = value.tolist() if isinstance(value, np.ndarray) else [*value]
    elif is_dataclass(value):
        value = vars(value)
    if not isinstance(value, Mapping | list):
        return {path: value}
    parts = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {k: v for key, part in parts for k, v in flat(part, f"{path}/{key}").items()}


def assert_near(found: Any, expected: Any, bound: float) -> None:
    """All numbers in it are equal but for this share of each, and all else is equal."""
    first, second = flat(found), flat(expected)
    assert first.keys() == second.keys()
    for path, value in second.items():
        near = isinstance(value, float) and math.isfinite(value)
        # Predictions are probabilities, cosines, and the numbers of vectors of length 1.
        least = bound if "/predictions/" in path else bound / 100
        other = pytest.approx(value, rel=bound, abs=least) if near else value
        assert first[path] == other, path


# What is computed


@pytest.fixture(scope="module", params=SIZES)
def together(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, torch.dtype], Any]:
    """What some processes compute together."""
    folder = tmp_path_factory.mktemp("together")
    job = Job(folder, request.param, partial(compute_all, data, [*BOUNDS]))
    assert job.end() == [0] * request.param, job.said()
    found = unpack((folder / "computed").read_bytes())
    return {(name, as_dtype(dtype)): value for (name, dtype), value in found.items()}


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What one process computes of a case."""
    made: dict[Any, Any] = {}

    def of(name: str, dtype: torch.dtype) -> Any:
        if (name, dtype) not in made:
            made[name, dtype] = computed(name, data, tmp_path_factory.mktemp("alone"), ALONE, dtype)
        return made[name, dtype]

    return of


def test_the_cases_have_every_kind_of_task(alone: Callable[..., Any]) -> None:
    found = {kind for name in CASES for kind in alone(name, FULL)["kinds"]}
    assert found == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize(("name", "dtype"), BOUNDS, ids=str)
def test_they_compute_what_one_computes(
    name: str, dtype: torch.dtype, alone: Callable[..., Any], together: Mapping[Any, Any]
) -> None:
    expected, found = alone(name, dtype), together[name, dtype]
    assert len([entry for entry in expected["log"] if "norm" in entry]) >= 4
    for part in ("log", "after"):
        assert_near(found[part], expected[part], BOUNDS[name, dtype])
    # The same weights say the same bits, whichever process computes the batch.
    assert flat(found["before"]["predictions"]) == flat(expected["before"]["predictions"])
    assert_near(found["before"]["metrics"], expected["before"]["metrics"], BOUNDS[name, dtype])
    assert len(set(found["weights"])) == 1  # the same bits in all processes


def test_each_keeps_its_share_of_the_prefix(
    alone: Callable[..., Any], together: Mapping[Any, Any]
) -> None:
    for name in ("cached", "thawing"):
        (whole,) = alone(name, FULL)["caches"]
        shares = together[name, FULL]["caches"]
        assert whole
        assert all(size == SIZE + 5 for size in whole)  # train and dev
        for sizes in zip(*shares, strict=True):
            assert sum(sizes) == SIZE + 5
            assert max(sizes) < 0.7 * (SIZE + 5)


# What is written and printed


def arguments(folder: Path, **changes: Any) -> list[str]:
    """The command line of a short run with early stopping and checkpoints."""
    given = {
        "data": folder / "tagged",
        "model": folder / "encoder",
        "output": "run",
        "device": "cpu",
    }
    given |= {"dropout": 0, "epochs": 4, "batch_size": 4, "lr": 1e-3, "head_lr": 1e-2}
    given |= {"eval_steps": 2, "save_steps": 3, "patience": 4, **changes}
    return [
        part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", str(value))
    ]


def train_in(
    folder: Path,
    size: int,
    given: Sequence[str],
    disturb: Callable[[int], Sequence[str]] = nothing,
) -> Job:
    """A job of `size` processes that train, which has ended."""
    job = Job(folder, size, partial(train_here, given, disturb))
    job.end()
    return job


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Job]:
    """A run of one process, and of two."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found = {size: train_in(folder / str(size), size, arguments(data)) for size in (1, 2)}
    for size, job in found.items():
        assert job.statuses == [0] * size, job.said()
    return found


def results(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in metrics_of(folder).items() if key != "seconds"}


def test_only_the_first_writes_and_prints(undisturbed: Mapping[int, Job]) -> None:
    one, two = undisturbed[1], undisturbed[2]
    timeless = [re.sub(r"[\d,]+ tokens/s|[\d.]+ s;", "", job.said("out", 0)) for job in (one, two)]
    assert timeless[0].count("\nepoch ") >= 4
    assert timeless[0] == timeless[1]
    assert two.said("out", 1) == two.said("err") == ""
    names = [
        {str(path.relative_to(job.folder)) for path in job.folder.rglob("*")} for job in (one, two)
    ]
    assert names[1] - names[0] == {"out1", "err1"}
    assert names[0] < names[1]


def test_best_step_and_early_stopping_are_those_of_one(undisturbed: Mapping[int, Job]) -> None:
    one, two = (results(undisturbed[size].folder / "run") for size in (1, 2))
    assert two["best_step"] == one["best_step"] < one["steps"]
    assert_near(two, one, ROUNDED)


# Going on


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Two processes that got SIGTERM, as torchrun sends it."""
    folder = tmp_path_factory.mktemp("stopped")
    return train_in(folder, 2, arguments(data), partial(signalled, signal.SIGTERM))


def test_a_signal_stops_all_at_one_step(stopped: Job) -> None:
    assert stopped.statuses[0] == 143
    assert None not in stopped.statuses
    (line,) = stopped.said("err").splitlines()
    assert re.fullmatch("stopped after step [3-6]; to go on: .* --resume .*run", line)


@pytest.mark.parametrize("size", [1, 4])
def test_another_number_of_processes_goes_on(
    stopped: Job, undisturbed: Mapping[int, Job], tmp_path: Path, size: int
) -> None:
    shutil.copytree(stopped.folder / "run", tmp_path / "run")
    job = train_in(tmp_path, size, ["--resume", "run"])
    assert job.statuses == [0] * size, job.said()
    assert f"was written by 2 processes, and goes on with {size}" in job.said("out")
    assert_near(results(tmp_path / "run"), results(undisturbed[2].folder / "run"), ROUNDED)


def test_with_dropout_the_same_number_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    given = arguments(data, dropout=0.3)
    whole = train_in(tmp_path / "whole", 2, given)
    train_in(tmp_path / "parts", 2, given, partial(signalled, signal.SIGTERM))
    parts = train_in(tmp_path / "parts", 2, ["--resume", "run"])
    assert whole.statuses == parts.statuses == [0, 0], parts.said()
    found, expected = outcome(tmp_path / "parts/run"), outcome(tmp_path / "whole/run")
    assert found == expected


def test_torchrun_starts_them_again_when_one_is_killed(
    data: Path, undisturbed: Mapping[int, Job], tmp_path: Path
) -> None:
    root = str(Path(distributed.__file__).parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "1", "-m", distributed.__name__]
    done = subprocess.run(
        [*command, *arguments(data)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "failed (exitcode: -9) local_rank: 1" in done.stderr
    assert done.stdout.count("epoch 1  step 2") == 1  # the second time, they went on
    assert_near(results(tmp_path / "run"), results(undisturbed[2].folder / "run"), ROUNDED)


def test_they_begin_again_when_one_is_killed_before_a_checkpoint(
    data: Path, undisturbed: Mapping[int, Job], tmp_path: Path
) -> None:
    job = train_in(tmp_path, 2, arguments(data), partial(killed, 2))
    assert job.statuses[1] == -signal.SIGKILL
    assert not [*tmp_path.glob("run/checkpoints/*")]
    job = job.again(partial(train_here, arguments(data), nothing))
    assert job.end() == [0, 0], job.said()
    assert "run has no checkpoint yet: the run starts from the beginning" in job.said("out")
    assert_near(results(tmp_path / "run"), results(undisturbed[2].folder / "run"), ROUNDED)


# Bad luck


@pytest.fixture
def at_work(data: Path, tmp_path: Path) -> Path:
    """A folder with some data, and folders of other files: `empty`, and `other` with other data."""
    for folder in (tmp_path, tmp_path / "other"):
        shutil.copytree(data / "tagged", folder / "tagged")
    lines = (data / "tagged/train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "other/tagged/train.jsonl").write_text("\n".join(lines[::-1]), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    return tmp_path


OF_TORCH = re.compile(r"\[|Exception raised|frame #|$")  # what it says beside our messages
BAD_LUCK: Mapping[str, tuple[Callable[[int], Sequence[str]], str]] = {
    "settings": (
        partial(with_other, "seed", "7"),
        "process . of 2, on .*: process 1 on .* has seed 7, and process 0 on .* has 0: all "
        "processes must begin with the same",
    ),
    "version": (
        of_other_version,
        "process . of 2, on .*: process 1 on .* has minibert '0.0.1', and process 0 on .* has",
    ),
    "missing data": (partial(elsewhere, "empty"), "process 1 of 2, on .*: .*tagged"),
    "other data": (
        partial(elsewhere, "other"),
        "process . of 2, on .*: process 1 on .* has the train split of tagged {.*}, and process 0 ",
    ),
    "no shared disk": (
        without_shared_disk,
        "process 1 of 2, on .*: the first process writes .*run, which cannot be seen here: .*disk",
    ),
    "GPU memory": (
        partial(short_of_memory, torch.OutOfMemoryError, 1),
        "process 1 of 2, on .*: out of memory with [0-9] sequences of .*: lower ",
    ),
    "memory": (
        partial(short_of_memory, MemoryError, 0),
        "process 0 of 2, on .*: out of memory with [0-9] sequences of .*: lower ",
    ),
    "killed": (partial(killed, 3), "process 0 of 2, on .*: process 1 has ended"),
    "hanging": (hanging, "process 0 of 2, on .*: process 1 has ended, or has not answered for 1 s"),
    "absent": (absent, "process 0 of 2, on .*: process 1 has ended, or has not answered for 1 s"),
}


@pytest.mark.parametrize("name", BAD_LUCK)
def test_one_process_says_what_happened(name: str, data: Path, at_work: Path) -> None:
    disturb, message = BAD_LUCK[name]
    job = Job(at_work, 2, partial(train_here, arguments(data, data="tagged"), disturb))
    start = time.monotonic()
    statuses = job.end(stops_all=name not in ("killed", "absent"))
    assert time.monotonic() - start < 40
    lines = [line for line in job.said("err").splitlines() if not OF_TORCH.match(line)]
    assert len(lines) == 1, lines
    assert re.match(f"error: {message}", lines[0]), lines
    assert 0 not in statuses
    assert None not in statuses


def test_a_folder_with_a_run_is_refused_once(data: Path, undisturbed: Mapping[int, Job]) -> None:
    job = train_in(undisturbed[2].folder, 2, arguments(data))
    (line,) = job.said("err").splitlines()
    assert re.match("error: process 0 of 2, on .*: run holds a run already: resume it", line)
    assert 0 not in job.statuses


@pytest.mark.parametrize("more", [{}, {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}])
def test_variables_that_are_left_over_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: dict[str, str]
) -> None:
    monkeypatch.setattr("train.launch.PATIENCE", timedelta(seconds=1))
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | more).items():
        monkeypatch.setenv(name, value)
    assert main(["--data", "nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(
        r"error: RANK and WORLD_SIZE are .*\(.+\)\. Start .* with torchrun; or unset", line
    )


# What processes tell one another, and how they share items out


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
arrays = st.sampled_from(["<f4", "<f8", "<i8", "|b1", "<U3"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 3), min_size=1, max_size=3).map(
        lambda shape: np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    )
)
values = st.recursive(
    plain | arrays,
    lambda part: (
        (
            st.lists(part, max_size=3)
            | st.lists(part, max_size=3).map(tuple)
            | st.dictionaries(plain | st.tuples(plain, plain), part, max_size=3)
            | st.builds(Prediction, part, part, cut=st.integers(), vectors=arrays)
            | st.builds(Filled, st.integers(), st.integers(), st.floats(allow_nan=False))
        )
        | st.frozensets(plain)
        | st.sets(plain)
    ),
    max_leaves=8,
)


def same(found: Any, expected: Any) -> bool:
    """Whether two values are equal, and of the same types all through."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and found.tolist() == expected.tolist()
    if is_dataclass(expected):
        return same(vars(found), vars(expected))
    if isinstance(expected, Mapping):
        return same([*found.items()], [*expected.items()])
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


@hypothesis.given(values)
def test_what_is_told_is_what_arrives(value: Any) -> None:
    assert same(unpack(pack(value)), value)


def test_predictions_of_every_kind_arrive(alone: Callable[..., Any]) -> None:
    for name in CASES:
        for moment in ("before", "after"):
            predictions = alone(name, FULL)[moment]["predictions"]
            assert same(unpack(pack(predictions)), predictions)


@pytest.mark.parametrize(
    "value", [object(), print, Prediction, 1j, b"bytes", torch.ones(2), np.array([None])]
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be told to another process"):
        pack([value])


@pytest.mark.parametrize(
    "name",
    ["os:system", "builtins:print", "train.wire:pack", "no.module:X", "train.journal:Journal"],
)
def test_nothing_but_records_is_made(name: str) -> None:
    told = pack(Prediction("x")).replace(b"train.tasks.records:Prediction", name.encode())
    told = (len(told) - 8).to_bytes(8) + told[8:]
    with pytest.raises(TypeError, match=f"{name} is no dataclass"):
        unpack(told)


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def items_of(sizes: Sequence[int]) -> list[Item]:
    """Items of so many tokens, numbered from 5."""
    example = Example("text", {"label": "x"}, where="here")
    return [
        Item(example, (Tokens([1] * size, [0] * size, [], 0),), number)
        for number, size in enumerate(sizes, start=5)
    ]


@hypothesis.given(lengths, st.integers(1, 6))
def test_shares_have_all_items_and_equal_work(sizes: Sequence[int], count: int) -> None:
    items = items_of(sizes)
    shares = World(0, count).shares(items)
    assert sorted(item.number for share in shares for item in share) == [i.number for i in items]
    for share in shares:
        numbers = [item.number for item in share]
        assert numbers == sorted(numbers)  # in the batch's order
    loads = [sum(item.num_tokens for item in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


@hypothesis.given(lengths, st.integers(1, 6), st.randoms())
def test_owners_are_kept_whatever_the_batch(sizes: Sequence[int], count: int, dice: Any) -> None:
    items = items_of(sizes)
    world = World(0, count)
    owners = {
        item.number: rank
        for rank, share in enumerate(world.shares(items, keeps_owners=True))
        for item in share
    }
    chosen = dice.sample(items, dice.randint(1, len(items)))
    for rank, share in enumerate(world.shares(chosen, keeps_owners=True)):
        assert all(owners[item.number] == rank for item in share)


@hypothesis.given(lengths, st.integers(2, 6))
def test_an_empty_share_has_a_stand_in_without_labels(sizes: Sequence[int], count: int) -> None:
    items = items_of(sizes)
    shares = World(0, count).shares(items)
    for rank, share in enumerate(shares):
        own = World(rank, count).own(shares)
        if share:
            assert own == share
        else:
            (item,) = own
            assert item.num_tokens == min(sizes)
            assert not item.example.labels
