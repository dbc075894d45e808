"""Heads that have been trained before: opened for their task, and what a new run starts from.

Evidence: folders as transformers writes them, with a random head by hand (tests/parity holds what
they compute against transformers itself). A new run's first weights are compared bit for bit with
the old head's rows and with those of a run that starts from the encoder alone.
"""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minibert import Bert, InputError, SentenceEncoder
from minibert.files import write_json
from minibert.formats.checkpoint import HeadWarning
from minibert.formats.hub import PoolingWarning
from minibert.formats.tensors import read_tensors, save_tensors
from tests.training import (
    TRIGGERS,
    World,
    differing,
    make_world,
    metrics_of,
    scored,
    weights,
    write_json_lines,
    write_model,
    write_splits,
)
from train.batches import prepare
from train.data.examples import Example
from train.evaluate import evaluate
from train.evaluate import main as evaluate_main
from train.evaluation import predict
from train.predict import main as predict_main
from train.predict import predict_texts
from train.run import main, train
from train.saved import load_run, open_run
from train.setup import Parts, assemble

INTENTS = ("music", "travel", "weather")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def with_head(
    folder: Path,
    labels: tuple[str, ...],
    architecture: str = "BertForSequenceClassification",
    **more: Any,
) -> Path:
    """The tiny BERT with a pooler and a random head of some labels."""
    write_model(folder, pooler=True)
    torch.manual_seed(5)
    head = {
        "classifier.weight": torch.randn(len(labels), 24),
        "classifier.bias": torch.randn(len(labels)),
    }
    change(folder, tensors=head, architectures=[architecture], id2label=numbered(labels), **more)
    return folder


def numbered(labels: tuple[str, ...]) -> dict[str, str]:
    return {str(number): label for number, label in enumerate(labels)}


def change(folder: Path, *, tensors: dict[str, Tensor] | None = None, **config: Any) -> None:
    """Write other tensors and other entries of config.json, beside those that are there."""
    file = folder / "model.safetensors"
    save_tensors(read_tensors(file) | (tensors or {}), file)
    content = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", content | config)


def head_of(parts: Parts, task: str) -> dict[str, Tensor]:
    return weights(parts.model.heads[task])


# Opening


def test_a_head_predicts_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No warning says that a head is left aside, or that the pooling is unknown."""
    folder = with_head(tmp_path / "model", INTENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predict_main(["--model", str(folder), "--json", "play now"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["label"]["label"] == max(INTENTS, key=record["label"]["scores"].__getitem__)
    assert sum(record["label"]["scores"].values()) == pytest.approx(1)


def test_labels_left_out_of_the_config_are_the_two_that_transformers_means(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "model", ("x", "y"))
    content = json.loads((folder / "config.json").read_text())
    del content["id2label"]
    write_json(folder / "config.json", content)
    assert open_run(str(folder)).tasks[0].labels == ("LABEL_0", "LABEL_1")


def test_a_runs_folder_opens_as_by_load_run(world: World, tmp_path: Path) -> None:
    train(world.settings(epochs=0), tmp_path / "run")
    opened, loaded = open_run(str(tmp_path / "run")), load_run(tmp_path / "run")
    assert not differing(weights(opened.model), weights(loaded.model))
    assert opened.settings == loaded.settings == world.settings(epochs=0)
    with pytest.raises(InputError, match="is a run's folder, and has no revision 'main'"):
        open_run(str(tmp_path / "run"), revision="main")


PROBLEMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a gap in the labels": (
        lambda folder: change(folder, id2label={"0": "a", "2": "b"}),
        r"config\.json: id2label has 2 labels, and none for 1$",
    ),
    "two equal labels": (
        lambda folder: change(folder, id2label={"0": "a", "1": "a", "2": "b"}),
        r"config\.json: id2label has two labels 'a'",
    ),
    "labels that are none": (
        lambda folder: change(folder, id2label=["a", "b"]),
        r"config\.json: id2label must map numbers to labels",
    ),
    "fewer labels than rows": (
        lambda folder: change(folder, id2label={"0": "a", "1": "b"}),
        r"the head's tensor classifier\.bias is \[3\], and the BertForSequenceClassification of 2 "
        r"labels that config\.json names has \[2\]",
    ),
    "another size": (
        lambda folder: change(folder, tensors={"classifier.weight": torch.zeros(3, 9)}),
        r"classifier\.weight is \[3, 9\], and the .* has \[3, 24\]",
    ),
    "a layer more": (
        lambda folder: change(folder, tensors={"classifier.out.bias": torch.zeros(3)}),
        r"the head's tensor classifier\.out\.bias is \[3\], and .* has none of that name",
    ),
    "another class": (
        lambda folder: change(folder, architectures=["BertForSpans"]),
        r"has a head \(BertForSpans\) that is for no kind of task here",
    ),
    "no class": (
        lambda folder: change(folder, architectures=None),
        r"has a head \(a class without a name\) that is for no kind of task here",
    ),
    "another problem": (
        lambda folder: change(folder, problem_type="ranking"),
        r"has a head \(BertForSequenceClassification, problem_type ranking\) that is for no kind",
    ),
    "another activation": (
        lambda folder: change(folder, sentence_transformers={"activation_fn": "torch.nn.Tanh"}),
        r"activation_fn 'torch\.nn\.Tanh' is neither Sigmoid nor Identity",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_head_that_cannot_be_opened_is_one_clear_error(tmp_path: Path, name: str) -> None:
    spoil, message = PROBLEMS[name]
    folder = with_head(tmp_path / "model", INTENTS)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        open_run(str(folder))


def test_a_part_of_a_head_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "model", INTENTS)
    file = folder / "model.safetensors"
    kept = {name: t for name, t in read_tensors(file).items() if name != "classifier.weight"}
    save_tensors(kept, file)
    with pytest.raises(InputError, match=r"the head's tensor classifier\.weight is missing, and"):
        open_run(str(folder))


def test_an_encoder_without_a_head_predicts_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_main(["--model", str(world.model), "a text"]) == 2
    assert "is an encoder without a head for a task: train one first" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["label", "judgement"])
def test_a_head_is_measured_on_pairs_whatever_their_label_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    folder = with_head(tmp_path / "model", ("y", "n"))
    change(folder, tensors={"classifier.weight": torch.zeros(2, 24)})
    change(folder, tensors={"classifier.bias": torch.tensor([1.0, 0.0])})
    (tmp_path / "some.csv").write_text(f"text_a,text_b,{field}\nplay,now,y\nfly,on,n\n")
    assert evaluate_main([str(folder), "--data", str(tmp_path / "some.csv"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["label"]["accuracy"] == 0.5
    assert ("judgement is read as label" in err) == (field == "judgement")


# A plain encoder


def test_a_head_left_aside_is_named(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "model", INTENTS, "BertForTokenClassification")
    message = (
        rf"model\.safetensors: the head classifier\.\* \(BertForTokenClassification, 3 labels\) is "
        rf"left aside: python -m train\.predict --model {folder} opens it$"
    )
    with pytest.warns(HeadWarning, match=message) as noted:
        Bert.from_pretrained(folder)
    assert noted[0].filename == __file__
    with pytest.warns(HeadWarning, match=message) as noted:
        SentenceEncoder.from_pretrained(folder, pooling="mean")
    assert noted[0].filename == __file__
    change(folder, architectures=["BertForSpans"])
    with pytest.warns(HeadWarning, match=r"\(BertForSpans, 3 labels\) is left aside$"):
        Bert.from_pretrained(folder)


def test_pretraining_heads_are_left_aside_silently(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", pooler=True)
    change(folder, tensors={"cls.seq_relationship.weight": torch.zeros(2, 24)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadWarning)
        warnings.simplefilter("ignore", PoolingWarning)
        SentenceEncoder.from_pretrained(folder)
        assert not assemble_on(folder, tmp_path).told


class Assembled:
    """The parts of a run that starts from a model, and what was said."""

    def __init__(self, parts: Parts, told: list[str]) -> None:
        self.parts, self.told = parts, told


def assemble_on(model: Path, folder: Path, make: Any = None, **changes: Any) -> Assembled:
    """Data of 40 texts with an intent, or as `make` makes a record of one."""
    lines = [{"text": f"{w} now", "intent": w} for w in INTENTS] * 14
    for split, count in (("train", 42), ("dev", 6)):
        records = [make(line) if make else line for line in lines[:count]]
        write_json_lines(folder / "data" / f"{split}.jsonl", records)
    told: list[str] = []
    settings = World(model, folder / "data", folder, folder).settings(**changes)
    parts = assemble(settings, announce=told.append)
    return Assembled(parts, [line for line in told if "head" in line])


# What a run starts from


def test_a_run_starts_from_a_head_of_its_labels(tmp_path: Path) -> None:
    """Whose rows are in another order; the pooling is the head's."""
    labels = ("weather", "music", "travel")
    folder = with_head(tmp_path / "model", labels)
    found = assemble_on(folder, tmp_path)
    assert found.told == [f"intent: goes on from the head label of {folder}"]
    old = read_tensors(folder / "model.safetensors")
    for name, tensor in head_of(found.parts, "intent").items():
        assert torch.equal(tensor, old[name][[labels.index(label) for label in INTENTS]])
    (task,) = found.parts.tasks
    assert task.describe()["pooling"] == "pooler"


def test_labels_without_names_are_the_numbers_of_the_data(tmp_path: Path) -> None:
    labels = ("LABEL_0", "LABEL_1", "LABEL_2")
    folder = with_head(tmp_path / "model", labels)
    found = assemble_on(
        folder, tmp_path, lambda line: line | {"intent": INTENTS.index(line["intent"])}
    )
    assert found.told == [f"intent: goes on from the head label of {folder}"]
    old = read_tensors(folder / "model.safetensors")
    for name, tensor in head_of(found.parts, "intent").items():
        assert torch.equal(tensor, old[name])


def test_labels_without_names_are_measured_by_their_numbers(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "model", ("LABEL_0", "LABEL_1", "LABEL_2"))
    words = [word for words in TRIGGERS.values() for word in words]
    records = [{"text": f"{word} now", "label": i % 3} for i, word in enumerate(words)]
    write_json_lines(tmp_path / "data" / "test.jsonl", records)
    found = evaluate(str(folder), str(tmp_path / "data"), "test")
    texts = [str(record["text"]) for record in records]
    predicted = [one["label"]["label"] for one in predict_texts(open_run(str(folder)), texts)]
    hits = sum(p == f"LABEL_{r['label']}" for p, r in zip(predicted, records, strict=True))
    assert 0 < hits < len(words)
    assert found.metrics["label"]["accuracy"] == pytest.approx(hits / len(words))  # type: ignore[index]


def test_rows_of_known_labels_are_kept_and_new_ones_are_fresh(tmp_path: Path) -> None:
    """Fresh ones are those of a run that starts from the encoder alone, bit for bit."""
    folder = with_head(tmp_path / "model", ("travel", "sports", "music"))
    found = assemble_on(folder, tmp_path)
    assert found.told == [
        f"intent: goes on from the head label of {folder}; 2 of 3 labels are known, new: weather; "
        "left out, since the data has none: sports"
    ]
    old = read_tensors(folder / "model.safetensors")["classifier.weight"]
    plain = write_model(tmp_path / "plain", pooler=True)
    fresh = head_of(assemble_on(plain, tmp_path, pooling="pooler").parts, "intent")
    weight = head_of(found.parts, "intent")["classifier.weight"]
    assert torch.equal(weight, torch.stack([old[2], old[0], fresh["classifier.weight"][2]]))


@pytest.mark.parametrize(
    ("labels", "architecture", "more"),
    [
        (("x", "y"), "BertForSequenceClassification", {}),
        (INTENTS, "BertForTokenClassification", {}),
        (INTENTS, "BertForSequenceClassification", {"problem_type": "multi_label_classification"}),
        (INTENTS, "BertForSpans", {}),
    ],
)
def test_where_nothing_fits_a_head_is_fresh(
    tmp_path: Path, labels: tuple[str, ...], architecture: str, more: dict[str, Any]
) -> None:
    folder = with_head(tmp_path / "model", labels, architecture, **more)
    found = assemble_on(folder, tmp_path)
    plain = write_model(tmp_path / "plain", pooler=True)
    expected = assemble_on(plain, tmp_path)
    assert not differing(weights(expected.parts.model), weights(found.parts.model))
    assert expected.told == []
    (told,) = found.told
    if architecture == "BertForSpans":
        assert told == f"{folder}: its head (BertForSpans) is for no kind of task here"
    else:
        assert told.startswith(f"intent: a new head, as none of {folder} fits, which has ")
        assert told.endswith(")")


def test_a_head_does_not_fit_another_pooling(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "model", INTENTS)
    for pooling in ("mean", "intent=cls"):
        (told,) = assemble_on(folder, tmp_path, pooling=pooling).told
        assert told.startswith("intent: a new head")
    (told,) = assemble_on(folder, tmp_path, pooling="intent=pooler").told
    assert told.startswith("intent: goes on")


def test_a_head_of_texts_starts_a_task_of_pairs(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "model", INTENTS)

    def pair(line: dict[str, str]) -> dict[str, str]:
        return {"text_a": line["text"], "text_b": "the days", "intent": line["intent"]}

    found = assemble_on(folder, tmp_path, pair)
    assert found.told == [f"intent: goes on from the head label of {folder}"]
    (task,) = found.parts.tasks
    assert (task.kind, task.describe()["pooling"]) == ("pair", "pooler")
    (told,) = assemble_on(folder, tmp_path, pair, pairs="apart").told
    assert told.startswith("intent: a new head")


def test_the_command_line_says_what_a_run_starts_from(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And warns of nothing. What was trained goes on to be a head of the run."""
    folder = with_head(tmp_path / "model", INTENTS)
    data, run = str(world.sentences), str(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        command = ["--data", data, "--tasks", "intent", "--epochs", "0", "--output", run]
        assert main(["--model", str(folder), *command]) == 0
    assert f"intent: goes on from the head label of {folder}\n" in capsys.readouterr().out
    tensors = read_tensors(tmp_path / "run/heads.safetensors")
    old = read_tensors(folder / "model.safetensors")
    assert torch.equal(tensors["intent.classifier.weight"], old["classifier.weight"])


# From a run


def test_a_run_goes_on_from_a_finished_one(world: World, tmp_path: Path) -> None:
    """Encoder and heads, each by its task's name; a task that is new gets a new head."""
    train(world.settings(pooling="cls"), tmp_path / "run")
    old = load_run(tmp_path / "run")
    told: list[str] = []
    settings = world.settings(world.sentences, world.scores, model=str(tmp_path / "run"))
    parts = assemble(settings, announce=told.append)
    assert [line for line in told if "head" in line] == [
        f"intent: goes on from the head intent of {tmp_path / 'run'}",
        f"slots: goes on from the head slots of {tmp_path / 'run'}",
        f"score: a new head, as none of {tmp_path / 'run'} fits, which has "
        "intent (sentence, 3 labels), slots (tokens, 5 labels, BIO)",
    ]
    assert not differing(weights(old.model.bert), weights(parts.model.bert))
    for name in ("intent", "slots"):
        assert not differing(weights(old.model.heads[name]), head_of(parts, name))
    items = prepare([item.example for item in parts.dev], old.encoder.tokenizer, old.tasks)
    assert predict(old.model, old.tasks, items[:12]) == [
        {name: p for name, p in found.items() if name != "score"}
        for found in predict(parts.model, parts.tasks, parts.dev[:12])
    ]
    train(settings, tmp_path / "more")
    assert metrics_of(tmp_path / "more")["steps"] > 0


def test_numbers_go_on_in_their_own_unit(world: World, tmp_path: Path) -> None:
    """The new data has another mean and deviation; the numbers that are predicted stay."""
    train(world.settings(world.scores, epochs=4), tmp_path / "run")

    def higher(dice: Any) -> dict[str, Any]:
        record = scored(dice)
        return record | {"score": 100 + 30 * record["score"]}

    data = write_splits(tmp_path / "higher", higher, 26, 8)
    old = load_run(tmp_path / "run")
    parts = assemble(world.settings(data, model=str(tmp_path / "run")), announce=lambda _: None)
    (before,), (after,) = old.tasks, parts.tasks
    assert before.describe()["scale"] * 20 < after.describe()["scale"]
    examples = [Example("play in oslo", {}, "here"), Example("ann joe doe", {}, "here")]
    numbers = [
        [p["score"].label for p in predict(model, tasks, prepare(examples, tokenizer, tasks))]
        for model, tasks, tokenizer in (
            (old.model, old.tasks, old.encoder.tokenizer),
            (parts.model, parts.tasks, parts.encoder.tokenizer),
        )
    ]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)
    assert abs(numbers[0][0] - numbers[0][1]) > 1e-2


def test_a_run_with_one_head_gives_it_to_a_task_of_another_name(
    world: World, tmp_path: Path
) -> None:
    train(world.settings(tasks=("intent",), epochs=0), tmp_path / "run")

    def renamed(line: dict[str, str]) -> dict[str, str]:
        return {"text": line["text"], "topic": line["intent"]}

    found = assemble_on(tmp_path / "run", tmp_path, renamed)
    assert found.told == [f"topic: goes on from the head intent of {tmp_path / 'run'}"]


def test_an_unfinished_run_is_nothing_to_start_from(world: World, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/settings.toml").write_text(world.settings().toml())
    with pytest.raises(
        InputError, match=r"is no finished run: it has no tasks\.json\. To finish it: .* --resume"
    ):
        assemble(world.settings(model=str(tmp_path / "run")))


# Numbers that are none


def test_a_prediction_that_is_no_number_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are finite, and whose products are not: in predicting and in training the text
    is named, and no JSON with NaN is written."""
    folder = with_head(tmp_path / "model", INTENTS)
    change(folder, tensors={"classifier.weight": torch.full((3, 24), 3e38)})
    assert predict_main(["--model", str(folder), "--json", "play now"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "text 1: what label predicts is not a finite number: the weights hold" in captured.err
    data = str(world.sentences)
    command = ["--data", data, "--tasks", "intent", "--epochs", "0"]
    assert main(["--model", str(folder), *command, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "dev.jsonl, line " in error
    assert "what intent predicts is not a finite number" in error
    assert not (tmp_path / "run/metrics.json").exists()


def test_rates_that_ruin_the_weights_end_in_an_error(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(world.model), "--data", str(world.sentences), "--clip", "0"]
    rates = ["--lr", "1e30", "--head-lr", "1e30", "--batch-size", "22", "--epochs", "1"]
    assert main([*command, *rates, "--output", str(tmp_path / "run")]) == 2
    assert "is not a finite number" in capsys.readouterr().err
    assert not (tmp_path / "run/metrics.json").exists()


def test_json_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []
