"""The loop from end to end, on a tiny model and tiny data.

Evidence: whole runs, compared bit for bit where two must be the same, and with what was made to
happen in them: losses that are not finite, metrics by a script, signals, folders that exist.
Resuming is in test_checkpoint, what is frozen in test_freezing, gradients in test_mixing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minibert import precision
from minibert.files import InputError, write_text
from minibert.formats.tensors import read_tensors
from minibert.tokens import TruncationWarning
from tests.documents import ROOT
from tests.training import (
    World,
    differing,
    log_of,
    make_world,
    metrics_of,
    outcome,
    scored,
    trained,
    weights,
    write_json_lines,
    write_splits,
)
from train import fit as fit_module
from train import run as run_module
from train.batches import Item
from train.checkpoint import checkpoints, read_progress
from train.command_line import run_folder
from train.compare import compare_single, epochs_alone, settings_alone
from train.data.examples import DataSet, Example
from train.evaluation import evaluate, monitored_value
from train.progress import Progress
from train.run import main, train
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import assemble
from train.step import forward_backward
from train.tasks import build_tasks
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.regression import SentenceRegression
from train.tasks.tagging import TokenTagging

LEARNS_BY_HEART = {"overfit_batch": 8, "epochs": 30, "lr": 1e-2, "head_lr": 3e-2, "dropout": 0.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def arguments(settings: Settings, folder: Path, *more: str) -> list[str]:
    """A command line that has these settings, by way of a recipe file."""
    write_text(folder / "recipe.toml", settings.toml())
    return ["--recipe", str(folder / "recipe.toml"), *more]


# Plans


def test_batches_are_grouped_by_length_if_the_settings_say_so() -> None:
    # 37 and 57 have no common factor: all of 4 to 60, in disorder
    lengths = [[4 + 37 * i % 57 for i in range(800)]]
    spreads = {}
    for grouped in (False, True):
        steps = plan_steps([800], Settings(group_by_length=grouped), 1, lengths)
        found = [[lengths[source][i] for source, i in batch] for (batch,) in steps]
        spreads[grouped] = sum(max(batch) - min(batch) for batch in found) / len(found)
    assert spreads[True] < spreads[False] / 2


# Seeds


@pytest.mark.parametrize("several", [False, True], ids=["one source", "three sources"])
def test_two_runs_of_one_seed_are_bit_identical(
    world: World, tmp_path: Path, several: bool
) -> None:
    data = (world.sentences, world.pairs, world.scores) if several else ()
    settings = world.settings(*data, sampling="temperature", accumulate=2, loss="uncertainty")
    for name in ("first", "second"):
        torch.manual_seed(len(name))
        train(settings, tmp_path / name)
    assert outcome(tmp_path / "first") == outcome(tmp_path / "second")


def test_another_seed_gives_another_run(world: World, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(world.settings(seed=seed, epochs=1, dropout=0.0), tmp_path / str(seed))
    first, second = (outcome(tmp_path / str(seed)) for seed in (0, 1))
    assert all(
        first[key] != second[key] for key in ("log", "heads.safetensors", "model/model.safetensors")
    )
    heads = [weights(assemble(world.settings(seed=seed)).model) for seed in (0, 1)]
    assert differing(heads[0], heads[1]) == {
        f"heads.{task}.classifier.weight" for task in ("intent", "slots")
    }


def test_bfloat16_is_refused_where_the_processor_lacks_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: False)
    with pytest.raises(InputError, match="no instructions for it"):
        train(world.settings(precision="bfloat16"), tmp_path / "run")
    for word in ("float32", "auto"):
        train(world.settings(precision=word, epochs=1), tmp_path / word)
    assert outcome(tmp_path / "float32") == outcome(tmp_path / "auto")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "tpu:x"])
def test_a_device_that_there_is_not(world: World, tmp_path: Path, device: str) -> None:
    with pytest.raises(InputError, match=f"device = '{device}' cannot be used"):
        train(world.settings(device=device), tmp_path / "run")


def test_a_run_in_a_thread_is_the_same_run(world: World, tmp_path: Path) -> None:
    """Python lets the main thread alone handle signals, so a thread's run leaves them alone."""
    train(world.settings(epochs=1), tmp_path / "main")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, world.settings(epochs=1), tmp_path / "thread").result()
    assert outcome(tmp_path / "thread") == outcome(tmp_path / "main")


# What is learnt


def test_loss_falls_and_the_metrics_of_dev_and_test_are_reported(
    world: World, tmp_path: Path
) -> None:
    returned = train(world.settings(epochs=6, lr=5e-3), tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    assert set(metrics) == {
        *(
            "dev",
            "test",
            "best_step",
            "steps",
            "skipped_steps",
            "truncated_sentences",
            "seconds",
            "history",
        )
    }
    for split in ("dev", "test"):
        assert set(metrics[split]) == {"intent", "slots", "frame"}
        of_tasks = {name: set(metrics[split][name]) for name in ("intent", "slots")}
        assert of_tasks == {
            "intent": {"accuracy", "macro_f1", "macro_recall", "loss"},
            "slots": {"f1", "precision", "recall", "entities_cut_off", "loss"},
        }
        assert 0 <= metrics[split]["frame"] <= min(1.0, metrics[split]["intent"]["accuracy"])
    assert metrics["test"] == returned
    assert (metrics["steps"], metrics["skipped_steps"], metrics["truncated_sentences"]) == (
        36,
        0,
        0,
    )
    assert [entry["step"] for entry in metrics["history"]] == [6, 12, 18, 24, 30, 36]
    assert metrics["history"][-1]["loss"]["slots"] < metrics["history"][0]["loss"]["slots"] / 2
    best = max(
        metrics["history"],
        key=lambda entry: entry["dev"]["intent"]["accuracy"] + entry["dev"]["slots"]["f1"],
    )
    assert metrics["best_step"] == best["step"]  # the first of equals
    assert metrics["dev"] == best["dev"]  # so the best weights were put back


def test_log_has_a_line_a_step_and_a_line_an_evaluation(world: World, tmp_path: Path) -> None:
    train(world.settings(), tmp_path / "run")
    log = log_of(tmp_path / "run")
    steps = [entry for entry in log if "norm" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    assert [entry["epoch"] for entry in steps] == [1] * 6 + [2] * 6
    assert all(entry["loss"].keys() == {"intent", "slots"} for entry in steps)
    assert [entry for entry in log if "dev" in entry] == metrics_of(tmp_path / "run")["history"]
    assert [i for i, entry in enumerate(log) if "dev" in entry] == [6, 13]


def test_loss_of_an_epoch_is_the_mean_over_its_targets(world: World, tmp_path: Path) -> None:
    """Not over its batches, whose targets are unequally many; and the next epoch's starts anew."""
    # so that nothing moves
    settings = world.settings(dropout=0.0, lr=1e-30, head_lr=1e-30, weight_decay=0.0)
    train(settings, tmp_path / "run")
    parts = assemble(settings)
    batch = parts.batch(parts.sources[0])
    states = parts.model.eval()(batch)
    expected = {}
    for task in parts.tasks:
        loss = task.loss(parts.model, states, batch)
        expected[task.name] = loss.item() / len(batch.targets[task.name])
    for entry in metrics_of(tmp_path / "run")["history"]:
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("eval_steps", "accumulate", "expected"),
    [
        (0, 1, [6, 12]),
        (4, 1, [4, 6, 8, 12]),
        (99, 1, [6, 12]),
        (1, 4, [1, 2, 3, 4]),
        (0, 4, [2, 4]),
    ],
)
def test_evaluations_are_every_n_steps_and_at_each_epochs_end(
    world: World, tmp_path: Path, eval_steps: int, accumulate: int, expected: list[int]
) -> None:
    train(world.settings(eval_steps=eval_steps, accumulate=accumulate), tmp_path / "run")
    assert [entry["step"] for entry in metrics_of(tmp_path / "run")["history"]] == expected


def test_test_sentences_are_predicted_once_and_at_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noting(model: Any, tasks: Any, items: Sequence[Item], *rest: Any, **more: Any) -> Any:
        (split,) = {re.sub(r".*/(\w+)\.jsonl.*", r"\1", item.example.where) for item in items}
        asked.append(split)
        return evaluate(model, tasks, items, *rest, **more)

    for module in (run_module, fit_module):
        monkeypatch.setattr(module, "evaluate", noting)
    train(world.settings(epochs=3), tmp_path / "run")
    assert asked == ["dev", "dev", "dev", "dev", "test"]


def test_without_a_test_split_dev_is_reported(world: World, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_json_lines(
            tmp_path / "data" / f"{split}.jsonl",
            [
                json.loads(line)
                for line in (world.sentences / f"{split}.jsonl").read_text().splitlines()
            ],
        )
    returned = train(world.settings(tmp_path / "data", epochs=1), tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    assert "test" not in metrics
    assert metrics["dev"] == returned
    assert len((tmp_path / "run/predictions.jsonl").read_text().splitlines()) == 12


def test_sentences_that_are_too_long_are_counted(world: World, tmp_path: Path) -> None:
    settings = world.settings(max_length=8, epochs=1)
    with pytest.warns(TruncationWarning, match="longer than 8 tokens"):
        train(settings, tmp_path / "run")
    parts = assemble(world.settings())  # where nothing is cut off
    splits = (parts.sources[0], parts.dev, parts.test)
    too_long = [sum(len(item.parts[0].ids) > 8 for item in items) for items in splits]
    metrics = metrics_of(tmp_path / "run")
    assert metrics["truncated_sentences"] == sum(too_long) > 0
    assert metrics["test"]["slots"]["entities_cut_off"] > 0


def test_a_vocabulary_that_is_taken_for_a_cased_one_is_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = shutil.copytree(world.model, tmp_path / "model"), tmp_path / "run"
    vocabulary = model / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("oslo", "Oslo"))
    given = ["--data", world.sentences, "--model", model, "--output", output, "--epochs", 0]
    assert main(["--device", "cpu", *map(str, given)]) == 0
    assert f"warning: {vocabulary} has words with capital letters" in capsys.readouterr().err


def test_zero_epochs_only_evaluate(world: World, tmp_path: Path) -> None:
    train(world.settings(epochs=0), tmp_path / "run")
    assert not differing(weights(assemble(world.settings()).model), trained(tmp_path / "run"))
    assert metrics_of(tmp_path / "run")["steps"] == 0


# Losses and gradients that are not finite


def spoil(
    monkeypatch: pytest.MonkeyPatch, calls: set[int], how: Callable[[Tensor], Tensor]
) -> None:
    """Change the training loss of the slots in these of its calls, counted from 1."""
    criterion = TokenTagging.criterion
    count = 0

    def changed(task: TokenTagging, logits: Tensor, targets: Tensor) -> Tensor:
        nonlocal count
        count += logits.requires_grad  # not in an evaluation
        loss = criterion(task, logits, targets)
        return how(loss) if logits.requires_grad and count in calls else loss

    monkeypatch.setattr(TokenTagging, "criterion", changed)


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda loss: loss * float("nan"),
    "infinite": lambda loss: loss * float("inf"),
    # its value is finite, and its gradient 0 * infinity
    "gradient alone": lambda loss: loss + (loss * 0).sqrt(),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_step_that_is_not_finite_changes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """One step of all sentences: it is skipped, decay and all, and counted. A run without another
    step fails."""
    spoil(monkeypatch, {1}, SPOILT[how])
    settings = world.settings(batch_size=44, epochs=1, weight_decay=0.5)
    with pytest.raises(InputError, match="none of the 1 steps had a finite loss and gradient"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run/metrics.json").exists()
    assert read_progress(tmp_path / "run", settings).skipped == 1
    (entry,) = [entry for entry in log_of(tmp_path / "run") if "norm" in entry]
    assert entry["norm"] is None
    assert (entry["loss"]["slots"] is None) == (how != "gradient alone")
    last = read_tensors(checkpoints(tmp_path / "run")[-1] / "tensors.safetensors")
    assert not any(name.startswith("optimizer.") for name in last)
    before = weights(assemble(settings).model)
    before.pop("bert.embeddings.word.weight")  # a checkpoint holds the rows of the words that occur
    assert not differing(before, {name: last[f"model.{name}"] for name in before})


def test_the_run_goes_on_after_skipped_steps(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twice two in a row are not three; the skipped steps' losses do not count in the epoch's
    mean. The end says how many there were."""
    spoil(monkeypatch, {2, 3, 5, 6}, SPOILT["nan"])
    train(world.settings(), tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    assert (metrics["steps"], metrics["skipped_steps"]) == (12, 4)
    printed = capsys.readouterr().out
    assert "\n4 steps were skipped: " in printed
    assert "\nstep 2 is skipped: the loss of slots is not finite, in a step that begins" in printed
    assert re.findall(
        r"step (\d+) is skipped: .* that begins with .*/train.jsonl, line \d+\n", printed
    ) == [*"2356"]
    assert all(0 < entry["loss"]["slots"] < 10 for entry in metrics["history"])
    last = read_tensors(checkpoints(tmp_path / "run")[-1] / "tensors.safetensors")
    assert float(last["optimizer.heads.slots.classifier.bias.step"]) == 8


def test_three_in_a_row_stop_the_run_and_name_the_batch(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(monkeypatch, {4, 5, 6}, SPOILT["gradient alone"])
    seen: list[list[str]] = []

    def noting(batches: Any, *rest: Any) -> Any:
        seen.append([item.example.where for batch in batches for item in batch.items])
        return forward_backward(batches, *rest)

    monkeypatch.setattr(fit_module, "forward_backward", noting)
    assert main(arguments(world.settings(), tmp_path, "--output", str(tmp_path / "run"))) == 2
    assert len(seen) == 6
    error = capsys.readouterr().err
    assert error.startswith(
        "error: 3 steps in a row had a loss or gradient that is not finite, the last at step 6, "
        "a batch"
    )
    assert all(
        re.search(r"train\.jsonl, line \d+$", where) and where in error for where in seen[5][:3]
    )
    assert "Lower lr, or look at these examples" in error


# The best step, and stopping early


def scripted(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """The monitored metric is what the script says, whatever was learnt."""
    script: Iterator[float] = iter(values)
    monkeypatch.setattr(fit_module, "monitored_value", lambda *_: next(script))


@pytest.mark.parametrize(
    ("patience", "values", "stops", "best"),
    [
        (2, [0.5, 0.4, 0.3], 3, 1),
        (1, [0.1, 0.2, 0.3, 0.25], 4, 3),
        (2, [0.1, 0.0, 0.2, 0.1, 0.2], 5, 3),  # an equal value is no better one
        (0, [-0.5, -0.6, -0.4, -0.7, -0.8, -0.9], 6, 3),
    ],
    ids=str,
)
def test_the_best_step_is_kept_and_patience_ends_the_run(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int,
    values: list[float],
    stops: int,
    best: int,
) -> None:
    scripted(monkeypatch, values)
    # three steps an epoch
    settings = world.settings(epochs=6, patience=patience, accumulate=2, keep=9, save_steps=3)
    train(settings, tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    assert [entry["step"] for entry in metrics["history"]] == [3 * (i + 1) for i in range(stops)]
    assert metrics["best_step"] == 3 * best
    assert metrics["dev"] == metrics["history"][best - 1]["dev"]
    then = read_tensors(tmp_path / f"run/checkpoints/step-{3 * best:08}/tensors.safetensors")
    left = trained(tmp_path / "run")
    left.pop("bert.embeddings.word.weight")  # a checkpoint holds the rows of the words that occur
    assert not differing(left, {name: then[f"model.{name}"] for name in left})


def test_patience_counts_evaluations_not_epochs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run can end in the middle of an epoch."""
    scripted(monkeypatch, [0.5, 0.4, 0.3])
    train(world.settings(epochs=2, patience=2, eval_steps=1), tmp_path / "run")
    assert (metrics_of(tmp_path / "run")["steps"], metrics_of(tmp_path / "run")["best_step"]) == (
        3,
        1,
    )


def test_a_run_is_over_after_its_epochs_or_when_patience_ends() -> None:
    def over(since_best: int, patience: int, epoch: int = 1) -> bool:
        progress = Progress(epoch=epoch, evaluations_since_best=since_best)
        return progress.is_over(Settings(patience=patience, epochs=3))

    assert [over(count, patience=2) for count in (0, 1, 2, 3)] == [False, False, True, True]
    assert not over(99, patience=0)
    assert [over(0, patience=0, epoch=epoch) for epoch in (3, 4)] == [False, True]


@pytest.fixture
def two_tasks() -> list[Task]:
    return [SentenceClassification("intent", ("a", "b")), TokenTagging("slots", ("O",))]


@pytest.fixture
def three_tasks(two_tasks: list[Task]) -> list[Task]:
    return [*two_tasks, SentenceRegression("score")]


MEASURED: dict[str, Any] = {
    "intent": {"accuracy": 0.5, "macro_f1": 0.25},
    "slots": {"f1": 0.75, "precision": 0.7, "entities_cut_off": 3},
    "score": {"spearman": 0.5, "root_mean_squared_error": 2.0},
    "frame": 0.125,
}


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        ("mean", (0.5 + 0.75 + 0.5) / 3),
        ("intent.accuracy", 0.5),
        ("intent.macro_f1", 0.25),
        ("slots.f1", 0.75),
        ("frame", 0.125),
        ("score.root_mean_squared_error", -2.0),  # the lower the better
        ("slots.entities_cut_off", -3),
    ],
)
def test_monitored_value(three_tasks: list[Task], monitor: str, expected: float) -> None:
    assert monitored_value(MEASURED, three_tasks, monitor) == expected


def test_mean_is_over_the_tasks_that_dev_has(two_tasks: list[Task]) -> None:
    assert monitored_value({"slots": {"f1": 0.75}}, two_tasks, "mean") == 0.75


@pytest.mark.parametrize("monitor", ["slots", "f1", "slots.accuracy", "topic.accuracy", "", "Mean"])
def test_an_unknown_metric_is_refused_before_training(
    world: World, tmp_path: Path, monitor: str
) -> None:
    message = (
        f"monitor = '{monitor}': the dev metrics are mean, loss, intent.accuracy, .*, slots.f1, "
        ".*, frame$"
    )
    with pytest.raises(InputError, match=message):
        train(world.settings(monitor=monitor), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frame_is_no_metric_of_one_task(world: World, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"monitor = 'frame': the dev metrics are mean, loss, slots\.f1, "
    ):
        train(world.settings(monitor="frame", tasks=("slots",)), tmp_path / "run")


@pytest.mark.parametrize(
    ("monitor", "highest"), [("intent.macro_f1", True), ("score.root_mean_squared_error", False)]
)
def test_the_monitored_metric_chooses_the_best(
    world: World, tmp_path: Path, monitor: str, highest: bool
) -> None:
    task, metric = monitor.split(".")
    data = world.sentences if task == "intent" else world.scores
    train(world.settings(data, epochs=5, lr=5e-3, monitor=monitor), tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    values = [entry["dev"][task][metric] for entry in metrics["history"]]
    best = (max if highest else min)(values)
    assert len(set(values)) > 1
    assert metrics["dev"][task][metric] == best
    assert metrics["best_step"] == metrics["history"][values.index(best)]["step"]


# Overfit mode


def test_a_batch_is_memorised(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = world.settings(**LEARNS_BY_HEART)
    assert main(arguments(settings, tmp_path, "--output", str(tmp_path / "run"))) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("memorised: all 16 predictions are equal to the labels\n")
    assert "8 train, 8 dev, 8 test examples" in printed
    history = metrics_of(tmp_path / "run")["history"]
    assert history[-1]["loss"]["intent"] < 0.05
    assert history[-1]["loss"]["slots"] < 0.05
    example = json.loads((world.sentences / "train.jsonl").read_text().splitlines()[0])
    lines = printed.splitlines()
    at = lines.index(" ".join(example["words"]))
    assert lines[at + 1] == f"  right  intent: {example['intent']}"
    assert lines[at + 2].startswith("  right  slots: ")


def test_a_batch_that_is_not_memorised_fails_loudly(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = world.settings(**LEARNS_BY_HEART | {"epochs": 1, "lr": 1e-9, "head_lr": 1e-9})
    assert main(arguments(settings, tmp_path, "--output", str(tmp_path / "run"))) == 2
    captured = capsys.readouterr()
    wrong = captured.out.count("  WRONG  ")
    assert wrong > 0
    assert captured.out.count("  right  ") + wrong == 16
    assert captured.err.startswith(
        f"error: the batch was not memorised: {wrong} of 16 predictions are wrong."
    )
    assert re.search(r"WRONG  intent: \w+, predicted \w+", captured.out)


def test_pairs_are_memorised_to_a_tenth(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = world.settings(world.pairs, **LEARNS_BY_HEART | {"lr": 3e-3})
    train(settings, tmp_path / "run")
    printed = capsys.readouterr().out
    example = json.loads((world.pairs / "train.jsonl").read_text().splitlines()[0])
    assert (
        f"{example['text_a']} | {example['text_b']}\n  right  cosine: {example['cosine']}\n"
        in printed
    )
    with pytest.raises(InputError, match="the batch was not memorised"):
        train(replace(settings, epochs=1, lr=1e-9), tmp_path / "again")


# Folders


def test_the_first_free_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no file, no run's folder, and none that another run has taken just now."""
    monkeypatch.chdir(tmp_path)
    settings = world.settings()
    write_text(tmp_path / "runs/sentences", "a file")
    write_text(tmp_path / "runs/sentences-2/settings.toml", "")
    with run_folder(settings, None) as third, run_folder(settings, None) as fourth:
        assert (third, fourth) == (Path("runs/sentences-3"), Path("runs/sentences-4"))
        assert main(arguments(world.settings(epochs=0), tmp_path)) == 0
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"sentences", "sentences-2", "sentences-5"}
    assert metrics_of(tmp_path / "runs/sentences-5")["steps"] == 0


def test_a_folder_in_which_nothing_was_begun_is_free(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed leaves its lock there, which it does not hold any more, and its
    settings half written. What somebody else owns is not free."""
    monkeypatch.chdir(tmp_path)
    for name in (".lock", ".settings.toml.77.88.tmp"):
        write_text(tmp_path / "runs/sentences" / name, "77")
    with run_folder(world.settings(), None) as folder:
        assert folder == Path("runs/sentences")
        assert os.listdir(folder) == [".lock"]
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs/sentences").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "sentences")
    with run_folder(world.settings(), None) as folder:
        assert folder == Path("runs/sentences-2")


def test_an_existing_run_is_not_overwritten(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(world.settings(epochs=0), tmp_path, "--output", str(tmp_path / "run"))
    assert main(command) == 0
    left = (tmp_path / "run/metrics.json").read_bytes()
    assert main(command) == 2
    assert f"{tmp_path / 'run'} holds a run already: resume it (--resume" in capsys.readouterr().err
    assert (tmp_path / "run/metrics.json").read_bytes() == left


def test_a_folder_that_another_process_writes_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With and without --resume; and the lock does not outlive its holder."""
    run = tmp_path / "run"
    command = arguments(world.settings(epochs=1), tmp_path, "--output", str(run))
    holder = (
        "import sys, pathlib\nfrom minibert.locks import locked\n"
        f"folder = pathlib.Path({str(run)!r})\nfolder.mkdir()\n"
        "with locked(folder):\n    print('locked', flush=True)\n    sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        (run / "settings.toml").write_text(world.settings(epochs=1).toml())
        for again in (command, ["--resume", str(run)]):
            assert main(again) == 2
            assert f"process {process.pid} is writing {run}" in capsys.readouterr().err
        (run / "settings.toml").unlink()
        process.kill()
    assert main(command) == 0


def test_a_run_that_cannot_start_leaves_no_folder(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--data", "nowhere", "--model", str(world.model)]) == 2
    assert main(["--data", str(world.sentences), "--model", "./no-model"]) == 2
    assert not (tmp_path / "runs").exists()
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_folder_of_the_users_own_stays(world: World, tmp_path: Path) -> None:
    """Empty as it is, and with an empty parent; what the run has made goes."""
    (tmp_path / "mine/own").mkdir(parents=True)
    (tmp_path / "mine/other").mkdir()
    for name in ("mine/own", "mine/new"):
        command = ["--data", "nowhere", "--model", str(world.model)]
        assert main([*command, "--output", str(tmp_path / name)]) == 2
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"own", "other"}
    (tmp_path / "mine/other").rmdir()
    assert main([*command, "--output", str(tmp_path / "mine/own")]) == 2
    assert (tmp_path / "mine/own").is_dir()


def test_interrupted_before_the_loop(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.setup.load_data", interrupt)
    assert main(arguments(world.settings(), tmp_path, "--output", str(tmp_path / "run"))) == 130
    assert capsys.readouterr().err == "stopped before training began: start it again\n"


def test_command_line_options_win_over_the_recipe(world: World, tmp_path: Path) -> None:
    command = arguments(
        world.settings(epochs=9), tmp_path, "--output", str(tmp_path / "run"), "--epochs", "0"
    )
    assert main([*command, "--seed", "5"]) == 0
    text = (tmp_path / "run/settings.toml").read_text()
    assert "epochs = 0\n" in text
    assert "seed = 5\n" in text


# Joint against single


def test_compare_single(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = world.settings(
        epochs=1, compare_single=True, loss="fixed", loss_weights="intent=0.7, slots=0.3"
    )
    assert main(arguments(settings, tmp_path, "--output", str(tmp_path / "run"))) == 0
    compared = json.loads((tmp_path / "run/compare.json").read_text())
    singles = {
        name: metrics_of(tmp_path / f"run/single-{name}")["test"] for name in ("intent", "slots")
    }
    assert compared == {
        "joint": metrics_of(tmp_path / "run")["test"],
        "single": {name: singles[name][name] for name in singles},
    }
    assert [set(single) for single in singles.values()] == [{"intent"}, {"slots"}]
    table = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["joint", "single"]
    assert [re.split(r"\s{2,}", line)[0] for line in table[1:]] == [
        *("intent accuracy", "intent macro_f1", "intent loss"),
        *("slots f1", "slots loss", "frame accuracy"),
    ]
    assert table[-1].endswith("-")  # no single task has frames


def test_a_single_run_is_the_run_of_that_task(world: World, tmp_path: Path) -> None:
    settings = world.settings(epochs=1, pooling="cls", class_weights="intent=auto", monitor="frame")
    compare_single(settings, tmp_path / "run", train(settings, tmp_path / "run"), train)
    train(replace(settings, tasks=("intent",), monitor="mean"), tmp_path / "alone")
    assert outcome(tmp_path / "run/single-intent") == outcome(tmp_path / "alone")


def test_settings_alone_drop_what_is_of_other_tasks(world: World) -> None:
    settings = world.settings(
        freeze="embeddings, head.intent, layers.0, head.slots",
        unfreeze="2: head.slots; 3: head.intent, layers.0; 4: embeddings",
        epochs=4,
        group_lr="head.slots=1e-4, layers.0-1=1e-5, head.intent = 2e-4",
        loss="uncertainty",
        compare_single=True,
        monitor="slots.f1",
    )
    intent, slots = assemble(settings).tasks
    alone = {
        task.name: settings_alone(settings, task, [intent, slots], 4) for task in (intent, slots)
    }
    assert alone["intent"] == replace(
        settings,
        tasks=("intent",),
        freeze=alone["intent"].freeze,
        unfreeze=alone["intent"].unfreeze,
        group_lr=alone["intent"].group_lr,
        epochs=4,
        loss="sum",
        compare_single=False,
        monitor="mean",
    )
    for name, other in (("intent", "slots"), ("slots", "intent")):
        plan = assemble(alone[name]).plan  # which refuses what it does not know
        assert plan.frozen == {"embeddings", "layers.0", f"head.{name}"}
        assert f"head.{other}" not in alone[name].group_lr
        assert f"head.{name}" in alone[name].group_lr
        assert "layers.0-1=1e-5" in alone[name].group_lr
    assert assemble(alone["intent"]).plan.thawed == {
        3: {"head.intent", "layers.0"},
        4: {"embeddings"},
    }
    assert assemble(alone["slots"]).plan.thawed == {
        2: {"head.slots"},
        3: {"layers.0"},
        4: {"embeddings"},
    }
    shorter = settings_alone(settings, slots, [intent, slots], 3)
    assert assemble(shorter).plan.thawed == {2: {"head.slots"}, 3: {"layers.0"}}


def test_settings_alone_drop_how_other_tasks_read_and_weigh() -> None:
    settings = Settings(
        pooling="max, topic=cls, same=mean",
        pairs="apart, same=together",
        class_weights="topic=auto, same=yes:2;no:1",
    )
    topic, same = (
        SentenceClassification("topic", ("a", "b")),
        SentenceClassification("same", ("a",)),
    )
    alone = settings_alone(settings, topic, [topic, same], 5)
    assert (alone.pooling, alone.pairs) == ("max, topic=cls", "apart")
    assert alone.class_weights == "topic=auto"
    alone = settings_alone(settings, same, [topic, same], 5)
    assert (alone.pooling, alone.pairs) == ("max, same=mean", "apart, same=together")
    assert alone.class_weights == "same=yes:2;no:1"


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [("proportional", (4, 4)), ("uniform", (12, 2)), ("round-robin", (12, 2))],
)
def test_a_task_alone_sees_its_data_as_often_as_jointly(
    sampling: str, expected: tuple[int, int]
) -> None:
    """Four epochs of 100 + 20 batches: half of them each is 2.4 epochs of the large source, 12 of
    the small."""
    settings = Settings(epochs=4, batch_size=10, sampling=sampling)
    sets = [
        DataSet(
            name,
            {
                "train": [
                    Example("a text", {name: label}, "here") for label in ("x", "y") * (size // 2)
                ]
            },
        )
        for name, size in (("small", 200), ("large", 1000))
    ]
    tasks = build_tasks(sets, settings)
    found = [epochs_alone(settings, sets, tasks, task) for task in tasks]
    # which draws lots
    assert found == pytest.approx(expected, abs=0 if sampling != "uniform" else 2)


def test_compare_single_of_two_sources_with_heads_named(world: World, tmp_path: Path) -> None:
    """One of them without a test split: each task is compared by what there is."""
    write_splits(tmp_path / "scores", scored, 10, 4)
    (tmp_path / "scores/test.jsonl").unlink()
    settings = world.settings(
        world.sentences,
        tmp_path / "scores",
        tasks=("intent", "score"),
        freeze="layers.0, head.score",
        epochs=1,
    )
    joint = train(settings, tmp_path / "run")
    compare_single(settings, tmp_path / "run", joint, train)
    compared = json.loads((tmp_path / "run/compare.json").read_text())
    assert set(compared["joint"]) == {"intent"}
    assert set(compared["single"]) == {"intent", "score"}
