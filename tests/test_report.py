"""What a run shows on the screen: tables to the letter, and TensorBoard's files against the log.

Evidence: whole texts for a small model; the files of other programs read back by those programs,
where they are installed.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from minibert.files import InputError, write_text
from minibert.program import Interrupted
from tests.training import World, log_of, make_world, metrics_of, write_model
from train.analysis import Analysis, Confusion, calibration
from train.batches import Item
from train.data.examples import Example
from train.evaluation import monitored_value
from train.journal import Journal, add_scalars, tensorboard
from train.progress import Metrics
from train.report import (
    final_table,
    group_rows,
    label_rows,
    label_tables,
    report_sections,
    shown,
    table,
    text_of,
    write_predictions,
)
from train.run import main, train
from train.settings import Settings
from train.setup import assemble
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.records import Prediction
from train.tasks.regression import SentenceRegression
from train.tasks.similarity import PairSimilarity
from train.tasks.tagging import TokenTagging

TASKS: list[Task] = [
    SentenceClassification("intent", ("a", "b")),
    TokenTagging("slots", ("O", "B-x", "I-x")),
    SentenceRegression("score"),
    PairSimilarity("cosine"),
]
METRICS: dict[str, Any] = {
    "intent": {"accuracy": 0.98765, "macro_f1": 0.5, "macro_recall": 0.1, "loss": 0.12345},
    "slots": {"f1": 1.0, "precision": 1.0, "recall": 1.0, "entities_cut_off": 0},
    "score": {
        "spearman": -0.51234567,
        "pearson": 0.1,
        "root_mean_squared_error": 2.0,
        "mean_absolute_error": 1.5,
    },
    "cosine": {
        "spearman": 0.0,
        "pearson": 0.1,
        "root_mean_squared_error": 0.25,
        "mean_absolute_error": 0.125,
    },
    "frame": 0.0625,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


# Tables


def test_columns_are_aligned_by_what_they_hold() -> None:
    rows = [("name", "n", "mixed"), ("a", "1", "x"), ("bcdef", "-20.5", "-"), ("", "-", "3")]
    assert table(rows) == (
        "name       n  mixed\n"
        "a          1  x\n"
        "bcdef  -20.5  -\n"
        "           -  3"
    )  # fmt: skip


def groups(settings: Settings) -> str:
    parts = assemble(settings)
    return table(group_rows(parts.model, parts.plan, settings))


def test_groups_table(world: World) -> None:
    """Sizes by hand: word, position and type tables of 43, 32 and 2 rows of 24, and a norm; a layer
    has four matrices of 24 x 24, two of 24 x 32, their biases and two norms; a head 24 weights and
    a bias a label. A norm has twice 24, and a layer 4 * 24 + 32 + 24 of biases beside two norms."""
    assert 43 * 24 + 32 * 24 + 2 * 24 + 48 == 1896
    assert 4 * (24 * 24 + 24) + 24 * 32 + 32 + 32 * 24 + 24 + 2 * 48 == 4088
    assert groups(world.settings()) == (
        "unit               parameters  state   learning rate  weight decay  without decay\n"
        "embeddings              1,896  learns          0.001          0.01             48\n"
        "layers.0-2 (each)       4,088  learns          0.001          0.01            248\n"
        "head.intent                75  learns           0.01          0.01              3\n"
        "head.slots                125  learns           0.01          0.01              5"
    )


def test_groups_table_of_a_schedule(world: World, tmp_path: Path) -> None:
    """A row for what differs; the pooler that no task uses; and the head without parameters is left
    out."""
    settings = world.settings(
        world.pairs,
        model=str(write_model(tmp_path / "model", pooler=True)),
        freeze="embeddings, layers.0-1",
        unfreeze="3: layers.0; 2: layers.1",
        epochs=3,
        layer_decay=0.5,
        weight_decay=0.0,
    )
    assert groups(settings) == (
        "unit        parameters  state                learning rate  weight decay  without decay\n"
        "embeddings       1,896  frozen                           -             -              -\n"
        "layers.0         4,088  learns from epoch 3        0.00025             0            248\n"
        "layers.1         4,088  learns from epoch 2         0.0005             0            248\n"
        "layers.2         4,088  learns                       0.001             0            248\n"
        "pooler             600  frozen                           -             -              -"
    )


def test_groups_table_of_a_frozen_backbone(world: World) -> None:
    assert groups(world.settings(freeze="backbone", head_lr=3e-4, tasks=("slots",))) == (
        "unit               parameters  state   learning rate  weight decay  without decay\n"
        "embeddings              1,896  frozen              -             -              -\n"
        "layers.0-2 (each)       4,088  frozen              -             -              -\n"
        "head.slots                125  learns         0.0003          0.01              5"
    )


def test_groups_table_is_printed_at_the_start(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = world.settings(freeze="layers.1", epochs=1)
    train(settings, tmp_path / "run")
    printed = capsys.readouterr()
    # 36 rows of words, and the row of ones
    held = groups(settings).replace("1,896", f"{(37 + 32 + 2) * 24 + 48:,}")
    start = printed.out.index("44 train")
    assert [line.split()[0] for line in printed.out[:start].splitlines()] == ["intent:", "slots:"]
    assert printed.out[start:].startswith(
        "44 train, 12 dev, 12 test examples; tasks: intent (sentence, 3 labels), "
        "slots (tokens, 5 labels, BIO)\n36 of 43 words occur; only their rows are held, "
        f"and one more that measures weight decay\n{held}\nepoch 1  step 6  loss "
    )
    results = {split: metrics_of(tmp_path / "run")[split] for split in ("dev", "test")}
    tail = printed.out[
        printed.out.index(final_table(results, assemble(settings).tasks)) :
    ].splitlines()
    table_of_labels = tail[tail.index("") + 1 :]
    assert table_of_labels[0].split() == ["intent", "precision", "recall", "f1", "support"]
    assert [line.split()[0] for line in table_of_labels[1:4]] == ["music", "travel", "weather"]
    assert tail[-1].startswith("best step 6 of 6, ")
    assert tail[-1].endswith(f" s; all of it is in {tmp_path / 'run'}")
    assert printed.err == ""  # no bar where there is no terminal


def test_final_table() -> None:
    single = {name: METRICS[name] for name in ("slots", "cosine")}
    assert final_table({"joint": METRICS, "single": single}, TASKS) == (
        "                                  joint  single\n"
        "intent accuracy                   98.77       -\n"
        "intent macro_f1                   50.00       -\n"
        "intent loss                      0.1235       -\n"
        "slots f1                         100.00  100.00\n"
        "score spearman                  -0.5123       -\n"
        "score root_mean_squared_error    2.0000       -\n"
        "score mean_absolute_error        1.5000       -\n"
        "cosine spearman                  0.0000  0.0000\n"
        "cosine root_mean_squared_error   0.2500  0.2500\n"
        "cosine mean_absolute_error       0.1250  0.1250\n"
        "frame accuracy                     6.25       -"
    )


def test_final_table_of_one_split_without_frames() -> None:
    assert final_table({"dev": {"intent": METRICS["intent"]}}, TASKS[:1]) == (
        "                    dev\n"
        "intent accuracy   98.77\n"
        "intent macro_f1   50.00\n"
        "intent loss      0.1235"
    )  # fmt: skip


def test_metrics_on_one_line() -> None:
    assert shown(METRICS, TASKS) == (
        "intent accuracy 98.77 macro_f1 50.00 loss 0.1235  slots f1 100.00  "
        "score spearman -0.5123 root_mean_squared_error 2.0000 mean_absolute_error 1.5000  "
        "cosine spearman 0.0000 root_mean_squared_error 0.2500 mean_absolute_error 0.1250  "
        "frame 6.25"
    )
    assert shown({"slots": METRICS["slots"]}, TASKS) == "slots f1 100.00"


# Predictions


def test_predictions_are_written_beside_what_is_right(tmp_path: Path) -> None:
    """Only what the item has a label for, with what is right beside what was predicted."""
    words = ("fly", "to", "rome")
    tagged = Item(
        Example(
            "fly to rome", {"intent": "a", "slots": ("O", "O", "B-x"), "other": "z"}, "", words
        ),
        (),
        0,
    )
    pair = Item(Example("one", {"cosine": 0.5}, "", second="two"), (), 1)
    found = [
        {
            "intent": Prediction("b", 0.75),
            "slots": Prediction(("O", "B-x", "I-x"), (0.5, 0.5, 0.5)),
        },
        {"intent": Prediction("a", 0.5), "cosine": Prediction(0.25)},
    ]
    write_predictions(tmp_path / "predictions.jsonl", TASKS, [tagged, pair], found)
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "text": "fly to rome",
            "words": list(words),
            "intent": {"gold": "a", "predicted": "b", "probability": 0.75},
            "slots": {"gold": ["O", "O", "B-x"], "predicted": ["O", "B-x", "I-x"]},
        },
        {"text": "one", "second": "two", "cosine": {"gold": 0.5, "predicted": 0.25}},
    ]
    intent, slots, _, cosine = TASKS
    assert slots.readable(("B-x", "I-x", "B-y"), tagged.example) == "x = fly to; y = rome"
    assert slots.readable(("O", "O", "O"), tagged.example) == "nothing"
    assert intent.readable("a", tagged.example) == "a"
    assert cosine.readable(0.5, pair.example) == "0.5"


def test_predictions_keep_ids_and_the_probabilities_of_classes(tmp_path: Path) -> None:
    scores = {"a": 0.25, "b": 0.75}
    item = Item(Example("one", {"intent": "a"}, "", choices=("x", "y"), id=7), (), 0)
    file = tmp_path / "predictions.jsonl"
    write_predictions(file, TASKS, [item], [{"intent": Prediction("b", 0.75, scores)}])
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "id": 7,
        "text": "one",
        "choices": ["x", "y"],
        "intent": {"gold": "a", "predicted": "b", "probability": 0.75, "scores": scores},
    }


# What is behind the metrics


def analysis(**parts: Any) -> Analysis:
    return Analysis(
        **{"per_label": {}, "confusion": None, "calibration": None, "worst": [], **parts}
    )


def test_label_tables_of_few_labels_are_for_the_screen() -> None:
    figures = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 3}
    few, many = ({f"l{i}": figures for i in range(count)} for count in (2, 13))
    assert table(label_rows("intent", few)) == (
        "intent  precision  recall     f1  support\n"
        "l0          50.00  100.00  66.67        3\n"
        "l1          50.00  100.00  66.67        3"
    )
    analyses = {"intent": analysis(per_label=few), "x": analysis(), "y": analysis(per_label=many)}
    assert label_tables(analyses) == [table(label_rows("intent", few))]


def test_the_sections_of_a_report() -> None:
    """Of many classes, the commonest confusions in place of a table of 13 times 13."""
    names = tuple(f"c{i:02}" for i in range(13))
    counts = tuple(tuple(int(i == 3) * j for j in range(13)) for i in range(13))
    example = Example("a\n very " + "long " * 100, {"intent": "a"}, "file, line 7", second="b")
    item = Item(example, (), 0)
    parts = {
        "intent": analysis(
            confusion=Confusion(("a", "b"), ((3, 1), (0, 2))),
            calibration=calibration([(0.95, True), (0.95, False)]),
            worst=[(item, Prediction("b", 0.75))],
        ),
        "slots": analysis(confusion=Confusion(names, counts)),
    }
    sections = dict(report_sections({"dev": METRICS, "test": METRICS}, TASKS, parts))
    assert sections["metrics"] == final_table({"dev": METRICS, "test": METRICS}, TASKS)
    assert sections["intent, test: confusions"] == (
        "right \\ predicted  a  b\n"
        "a                  3  1\n"
        "b                  0  2"
    )  # fmt: skip
    assert sections["intent, test: calibration, expected error 45.00"] == (
        " probability  predictions  mean probability  right\n"
        "0.93 to 1.00            2             95.00  50.00"
    )
    text = f"a very {'long ' * 100}"[:300]
    assert sections["intent, test: the worst mistakes"] == (
        f" 1. {text} ... | b\n    right      a\n    predicted  b (0.75)\n"
        "    from       file, line 7"
    )
    mistakes = sections["slots, test: confusions"].splitlines()
    assert mistakes[0].split() == ["right", "predicted", "times"]
    assert mistakes[1].split() == ["c03", "c12", "12"]
    assert len(mistakes) == 1 + 11  # all that is not 0, nor right
    assert len(sections) == 5


def test_all_texts_of_an_example_on_one_line() -> None:
    example = Example("a\tb\n c", {}, "", second="d", choices=("e", "f"))
    assert text_of(example) == "a b c | d | e | f"
    assert text_of(example, 3) == "a b ... | d | e | f"


# The loss on dev


def test_the_loss_on_dev_is_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world.settings(world.scores, epochs=1), tmp_path / "run")
    (entry,) = metrics_of(tmp_path / "run")["history"]
    assert f" loss {entry['dev']['score']['loss']:.4f}  " in capsys.readouterr().out


@pytest.mark.parametrize("monitor", ["loss", "score.loss"])
def test_the_loss_on_dev_can_choose_the_best_weights(
    world: World, tmp_path: Path, monitor: str
) -> None:
    """The lowest is the best, and a run whose loss has stopped falling ends."""
    settings = world.settings(world.scores, monitor=monitor, epochs=40, patience=2, lr=0.03)
    train(settings, tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    losses = {e["step"]: e["dev"]["score"]["loss"] for e in metrics["history"]}
    assert metrics["best_step"] == min(losses, key=losses.__getitem__)
    assert metrics["dev"]["score"]["loss"] == pytest.approx(min(losses.values()))
    steps = list(losses)
    assert steps.index(metrics["best_step"]) == len(steps) - 1 - 2
    assert len(steps) < 40


def test_the_loss_monitored_is_that_of_one_task_or_the_sum() -> None:
    two: list[Task] = [SentenceClassification("a", ("x", "y")), SentenceRegression("b")]
    metrics: Metrics = {"a": {"accuracy": 0.5, "loss": 1.5}, "b": {"loss": 0.25}, "frame": 0.5}
    assert monitored_value(metrics, two, "loss") == -1.75
    assert monitored_value(metrics, two, "b.loss") == -0.25


# TensorBoard


class Board:
    """Keeps what TensorBoard would be told."""

    def __init__(self) -> None:
        self.scalars: dict[tuple[str, int], float] = {}

    def close(self) -> None:
        self.scalars["closed", 0] = 1.0

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert (name, step) not in self.scalars
        self.scalars[name, step] = value


def expected_scalars(run: Path) -> dict[tuple[str, int], float]:
    """What the log says, by the names that the numbers have in TensorBoard."""
    found: dict[tuple[str, int], float] = {}
    for entry in log_of(run):
        if "norm" in entry:
            for key in ("norm", "rate"):
                found[f"train/{key}", entry["step"]] = entry[key]
            found |= {
                (f"train/loss/{task}", entry["step"]): loss for task, loss in entry["loss"].items()
            }
        else:
            for task, value in entry["dev"].items():
                named = value.items() if isinstance(value, dict) else [("", value)]
                found |= {(f"dev/{task}/{key}".rstrip("/"), entry["step"]): x for key, x in named}
    return found


def test_scalars_are_those_of_the_log(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board()
    monkeypatch.setattr("train.journal.tensorboard", lambda run, step: board)
    train(world.settings(tensorboard=True), tmp_path / "run")
    assert board.scalars.pop(("closed", 0)) == 1.0
    assert board.scalars == expected_scalars(tmp_path / "run")
    assert {name for name, _ in board.scalars} >= {
        "train/loss/intent",
        "train/norm",
        "dev/slots/f1",
        "dev/frame",
    }


def test_the_board_is_closed_when_a_run_is_interrupted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board()
    monkeypatch.setattr("train.journal.tensorboard", lambda run, step: board)
    monkeypatch.setattr(
        Journal, "note_evaluation", lambda *_: (_ for _ in ()).throw(Interrupted("now"))
    )
    with pytest.raises(Interrupted):
        train(world.settings(tensorboard=True), tmp_path / "run")
    assert board.scalars["closed", 0] == 1.0


def test_add_scalars_names_folders() -> None:
    board = Board()
    add_scalars(board, "a", {"b": {"c": 1.0, "d": {"e": 2}}, "f": 3.0}, 7)
    assert board.scalars == {("a/b/c", 7): 1.0, ("a/b/d/e", 7): 2, ("a/f", 7): 3.0}


def test_tensorboard_is_not_asked_for_unless_it_is(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.journal.tensorboard", lambda *_: pytest.fail("a board was opened"))
    train(world.settings(epochs=1), tmp_path / "run")


def test_without_tensorboard_the_error_says_what_to_install(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        InputError, match="tensorboard = true needs the tensorboard package: install it"
    ):
        tensorboard(tmp_path, 0)
    write_text(tmp_path / "recipe.toml", world.settings(tensorboard=True).toml())
    command = ["--recipe", str(tmp_path / "recipe.toml"), "--output", str(tmp_path / "run")]
    assert main(command) == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # so the same command works once it is installed
    assert main([*command, "--no-tensorboard", "--epochs", "0"]) == 0


def test_tensorboard_reads_its_files(world: World, tmp_path: Path) -> None:
    """And after a resumption that takes steps again, each step counts once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(world.settings(tensorboard=True, epochs=1), tmp_path / "run")
    with tensorboard(tmp_path / "run", 4) as board:  # as if the run had gone on from step 4
        add_scalars(board, "train", {"norm": 0.5}, 5)
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    found = {
        (tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)
    }
    expected = {
        key: value for key, value in expected_scalars(tmp_path / "run").items() if key[1] <= 4
    }
    assert found == pytest.approx(expected | {("train/norm", 5): 0.5}, rel=1e-6)
