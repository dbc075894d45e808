"""Which examples a step has: growing steps, a last step, batches without equal texts, and what a
plan holds.

Evidence: counts by hand, a slow search for the first batch that fits, and properties. The samplers
themselves are tested in test_data.py.
"""

import math
import random
from pathlib import Path
from typing import Any

import pytest

from minibert.files import InputError
from tests.training import World, log_of, make_world, metrics_of, write_json_lines
from train import fit as fit_module
from train.optimizer import rate_factor
from train.run import main, train
from train.sampling import count_steps, plan_steps, texts_apart
from train.settings import Settings
from train.setup import assemble


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


# Growing steps


def step_sizes(num_batches: int, epochs: int, **changes: Any) -> list[list[int]]:
    """How many batches each step of each epoch has."""
    settings = Settings(batch_size=2, epochs=epochs, **changes)
    plans = [plan_steps([2 * num_batches], settings, epoch) for epoch in range(1, epochs + 1)]
    assert count_steps([2 * num_batches], settings, epochs) == sum(map(len, plans))
    return [[len(step) for step in plan] for plan in plans]


def test_steps_grow_over_the_whole_run() -> None:
    # 1 + 4 * s // 6 for the steps s = 0 to 5, then 4; what an epoch has left makes its last step
    assert step_sizes(8, 3, accumulate=4, ramp_steps=6) == [[1, 1, 2, 3, 1], [4, 4], [4, 4]]
    # more steps than batches to accumulate, and fewer
    assert step_sizes(9, 1, accumulate=3, ramp_steps=9) == [[1, 1, 1, 2, 2, 2]]
    assert step_sizes(20, 1, accumulate=8, ramp_steps=2) == [[1, 5, 8, 6]]
    assert step_sizes(5, 2, accumulate=2, ramp_steps=0) == [[2, 2, 1]] * 2


def test_growing_steps_have_the_batches_of_steps_that_do_not_grow() -> None:
    ramped = plan_steps([97], Settings(batch_size=4, accumulate=5, ramp_steps=7), 2)
    plain = plan_steps([97], Settings(batch_size=4), 2)
    assert [batch for step in ramped for batch in step] == [batch for (batch,) in plain]


def test_a_plan_is_small(world: World) -> None:
    """20 million sequences are 100 MB, not gigabytes."""
    plan = plan_steps([100_000], Settings(batch_size=32), 1)
    parts = (plan.numbers, plan.sources, plan.batch_bounds, plan.step_bounds)
    assert sum(part.nbytes for part in parts) < 8 * 100_000
    assert sorted(number for step in plan for batch in step for _, number in batch) == list(
        range(100_000)
    )


# A last step


def test_a_run_ends_after_its_last_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second epoch, with an evaluation, and with rates that end there."""
    seen = []

    def rate(step: int, total: int, settings: Settings) -> float:
        seen.append((step, total))
        return rate_factor(step, total, settings)

    monkeypatch.setattr(fit_module, "rate_factor", rate)
    train(world.settings(max_steps=8, epochs=9), tmp_path / "run")
    assert seen == [(step, 8) for step in range(8)]
    assert [entry["step"] for entry in log_of(tmp_path / "run") if "dev" in entry] == [6, 8]
    assert metrics_of(tmp_path / "run")["steps"] == 8


def test_epochs_that_end_before_the_last_step_are_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world.settings(max_steps=7, epochs=1), tmp_path / "run")
    told = "max_steps = 7, but epochs = 1 have only 6 steps, after which the run ends"
    assert told in capsys.readouterr().out
    assert metrics_of(tmp_path / "run")["steps"] == 6


def test_a_run_gets_more_steps(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(world.settings(max_steps=3, epochs=1), run)
    refused = {
        ("--epochs", "2"): "has taken 3 steps, and has max_steps = 3: give --max-steps too",
        ("--max-steps", "3"): "has 3 already; give more",
        (): "To train it longer, give --epochs too, or --max-steps if it has that",
    }
    for options, message in refused.items():
        capsys.readouterr()
        assert main(["--resume", str(run), *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["--resume", str(run), "--max-steps", "8", "--epochs", "2"]) == 0
    assert metrics_of(run)["steps"] == 8
    assert main(["--resume", str(run), "--max-steps", "0"]) == 0
    assert metrics_of(run)["steps"] == 12
    assert main(["--resume", str(run), "--max-steps", "20"]) == 2  # it has no such limit any more
    assert f"--max-steps 20: {run} takes all steps of its epochs" in capsys.readouterr().err


# Batches without equal texts


def first_that_fits(order: list[int], texts: list[tuple[int, ...]], size: int) -> list[list[int]]:
    """The rule, word for word."""
    batches: list[list[int]] = [[] for _ in range(math.ceil(len(order) / size))]
    for number in order:
        for batch in batches:
            held = {text for other in batch for text in texts[other]}
            if len(batch) < size and not held & set(texts[number]):
                batch.append(number)
                break
    return batches


@pytest.mark.parametrize("distinct", [3, 30, 1000])
def test_each_example_goes_into_the_first_batch_that_fits(distinct: int) -> None:
    dice = random.Random(distinct)
    texts = [tuple(dice.randrange(distinct) for _ in range(dice.randrange(4))) for _ in range(203)]
    settings = Settings(batch_size=8)
    order = [number for (b,) in plan_steps([203], settings, 1) for _, number in b]
    plan = plan_steps([203], settings, 1, texts=[texts])
    expected = first_that_fits(order, texts, 8)
    assert [[number for _, number in batch] for (batch,) in plan] == expected
    assert plan.left_out == 203 - sum(map(len, expected))
    assert len(plan) == 26
    assert (distinct < 1000) == (plan.left_out > 0)


@pytest.mark.parametrize("sampling", ["proportional", "temperature", "round-robin"])
@pytest.mark.parametrize("grouped", [False, True])
def test_no_batch_has_a_text_twice(sampling: str, grouped: bool) -> None:
    dice = random.Random(0)
    sizes = [400, 90]
    texts = [[(dice.randrange(60), 60 + number) for number in range(size)] for size in sizes]
    lengths = [[4 + 37 * number % 57 for number in range(size)] for size in sizes]
    settings = Settings(batch_size=8, sampling=sampling, group_by_length=grouped)
    plan = list(plan_steps(sizes, settings, 1, lengths, texts))
    for (batch,) in plan:
        held = [text for source, number in batch for text in texts[source][number]]
        assert len(held) == len(set(held))
    assert plan == list(plan_steps(sizes, settings, 1, lengths, texts))
    assert plan != list(plan_steps(sizes, settings, 2, lengths, texts))
    spread = [max(found) - min(found) for (b,) in plan if (found := [lengths[s][n] for s, n in b])]
    assert (sum(spread) / len(spread) < 20) == grouped  # of 56; at random about 44


def test_where_all_texts_differ_nothing_changes() -> None:
    settings = Settings(batch_size=8, group_by_length=True)
    lengths = [[4 + 37 * number % 57 for number in range(203)]]
    plain = list(plan_steps([203, 20], settings, 1, [*lengths, [5] * 20]))
    texts = [[(number,) for number in range(203)]]  # of the first source only
    assert list(plan_steps([203, 20], settings, 1, [*lengths, [5] * 20], texts)) == plain


def write_anchors(folder: Path, positives: int) -> Path:
    """24 anchors, with so many different positives."""
    words = ("ann", "bob", "eve", "joe", "rome", "oslo", "paris", "york")
    anchors = [f"{first} {second}" for first in words for second in ("play", "fly", "rain")]
    for split in ("train", "dev"):
        records = [
            {"anchor": anchor, "positive": f"the song of {words[i % positives]}"}
            for i, anchor in enumerate(anchors)
        ]
        write_json_lines(folder / f"{split}.jsonl", records)
    return folder


def test_contrastive_batches_have_no_text_twice(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_anchors(tmp_path / "anchors", positives=4)
    settings = world.settings(data, epochs=1, batch_size=6)
    parts = assemble(settings)
    (items,) = parts.sources
    texts = texts_apart(items, parts.tasks)
    assert len({text for own in texts for text in own}) == 24 + 4
    plan = plan_steps([24], settings, 1, texts=[texts])
    assert [len(batch) for (batch,) in plan] == [4] * 4  # there are four positives
    for (batch,) in plan:
        assert len({items[number].example.second for _, number in batch}) == len(batch)
    capsys.readouterr()
    train(settings, tmp_path / "run")
    assert "8 of 24 examples are left out of epoch 1" in capsys.readouterr().out


def test_equal_texts_are_those_that_the_model_reads_alike(world: World, tmp_path: Path) -> None:
    records = [
        {"anchor": "Play", "positive": "fly"},
        {"anchor": "play ", "positive": "rain"},
        {"anchor": "plays", "positive": "fly"},
    ]
    for split in ("train", "dev"):
        write_json_lines(tmp_path / f"{split}.jsonl", records)
    parts = assemble(world.settings(tmp_path))
    texts = texts_apart(parts.sources[0], parts.tasks)
    assert texts == [(0, 1), (0, 2), (3, 1)]


def test_kinds_that_compare_no_texts_take_every_batch_as_it_comes(world: World) -> None:
    parts = assemble(world.settings(world.sentences, world.pairs))
    assert not any(task.keeps_texts_apart for task in parts.tasks)
    with pytest.raises(InputError, match="ramp_steps = -1: must be at least 0"):
        Settings(ramp_steps=-1)
