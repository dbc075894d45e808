"""predict.py and evaluate.py as programs: a saved run answers as the model did before, from
wherever texts come.

Evidence: a small random BERT with a head of every kind, saved as a run saves it; what the programs
print is held against the model itself, and every misuse is one line on stderr with exit status 2.
"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from minibert import Bert, BertConfig, InputError, SentenceEncoder
from minibert.files import write_text
from minibert.formats.tensors import read_tensors
from minibert.tokenizer import Tokenizer
from tests.test_data import VOCABULARY
from tools.parity import shake
from train import evaluate, evaluation, predict
from train.batches import prepare
from train.data.examples import Example
from train.model import JointModel, make_fast
from train.saved import load_run, save_run
from train.settings import Settings
from train.tags import BIO
from train.tasks.base import Prediction, Task
from train.tasks.classification import SentenceClassification
from train.tasks.regression import SentenceRegression
from train.tasks.similarity import PairSimilarity
from train.tasks.tagging import TokenTagging

TASKS: list[Task] = [
    SentenceClassification("mood", ("bad", "good", "so"), "cls"),
    TokenTagging("slots", ("O", "B-x", "I-x", "B-y", "I-y")),
    SentenceRegression("stars"),
]
PAIRS: list[Task] = [PairSimilarity("likeness")]
TEXTS = ["ab c, d!", "it's a fine day", "x"]


def save(folder: Path, tasks: Sequence[Task], split_words: str = "punctuation") -> JointModel:
    """Write a run of a random model with clear opinions; returns the model."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
    )
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    encoder = SentenceEncoder(
        shake(Bert(config), 1.0).eval(), Tokenizer.from_folder(folder / "words")
    )
    model = JointModel(encoder.bert, tasks).eval()
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)
    settings = Settings(data=("x",))
    save_run(folder, encoder, model, tasks, split_words, facts={}, training="")
    write_text(folder / "settings.toml", settings.toml())
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save(folder, TASKS)
    return folder


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    save(folder, PAIRS)
    return folder


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def answers(capsys: pytest.CaptureFixture[str], *arguments: Any) -> list[dict[str, Any]]:
    """What the program prints with --json."""
    assert predict.main([*map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.split("\n")[:-1]]


def complaint(capsys: pytest.CaptureFixture[str], program: Any, *arguments: Any) -> str:
    assert program.main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").strip()


def test_a_saved_run_answers_as_its_model_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(tmp_path, TASKS)
    tokenizer = Tokenizer.from_folder(tmp_path / "words")
    words = [["ab", "c", ",", "d", "!"], ["it", "'", "s", "a", "fine", "day"], ["x"]]
    examples = [Example(text, {}, "", tuple(w)) for text, w in zip(TEXTS, words, strict=True)]
    items = prepare(examples, tokenizer, TASKS)
    records = answers(capsys, tmp_path, *TEXTS)
    assert [record["text"] for record in records] == TEXTS
    entities = 0
    for record, item, found in zip(
        records, items, evaluation.predict(model, TASKS, items), strict=True
    ):
        assert list(record) == ["text", "mood", "slots", "stars"]
        assert record["mood"] == {
            "label": found["mood"].label,
            "probability": pytest.approx(found["mood"].probability, rel=1e-5),
        }
        assert record["stars"] == {"score": pytest.approx(found["stars"].label, rel=1e-5)}
        tags, sure = found["slots"].label, found["slots"].probability
        assert isinstance(tags, tuple)
        assert isinstance(sure, tuple)
        assert {(e["type"], *e["words"]) for e in record["slots"]} == BIO.entities(tags)
        entities += len(record["slots"])
        for entity in record["slots"]:
            start, end = entity["words"]
            assert entity["text"] == " ".join((item.example.words or ())[start:end])
            assert entity["probability"] == pytest.approx(min(sure[start:end]), rel=1e-5)
    assert entities > 2


def test_texts_come_from_arguments_a_file_or_standard_input(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["ab c", "one\u2028line \x0b still", "it's"]  # only a line feed ends a line
    wanted = answers(capsys, run, *texts)
    assert [record["text"] for record in wanted] == texts
    content = "\r\n".join(texts).encode()
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + content + b"\n")
    assert answers(capsys, run, "--input", tmp_path / "texts.txt") == wanted
    for arguments in ([], ["--input", "-"]):
        stdin(monkeypatch, content)
        assert answers(capsys, run, *arguments) == wanted
    stdin(monkeypatch, b"")
    assert answers(capsys, run) == []


def test_output_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(run), "ab c, d!"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (record,) = answers(capsys, run, "ab c, d!")
    mood, stars = record["mood"], record["stars"]
    assert lines[:2] == ["ab c, d!", f"  mood: {mood['label']} ({mood['probability']:.2f})"]
    assert lines[3:] == [f"  stars: {stars['score']:.4f}"]
    shown = "; ".join(f"{e['type']}: {e['text']} ({e['probability']:.2f})" for e in record["slots"])
    assert lines[2] == f"  slots: {shown}"
    assert shown


def test_a_text_without_entities() -> None:
    found = {"slots": Prediction(("O",), (1.0,))}
    assert predict.as_lines(Example("a", {}, "", ("a",)), found, TASKS) == "a\n  slots: none"


def test_words_are_split_as_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = (
        predict.to_examples(["it's  a\u00a0b."], "whitespace", TASKS),
        predict.to_examples(["it's a"], "punctuation", TASKS),
    )
    assert [example.words for (example,) in texts] == [("it's", "a", "b."), ("it", "'", "s", "a")]
    save(tmp_path, TASKS, "whitespace")
    assert load_run(tmp_path).splitting == "whitespace"
    whole, split = (
        predict.to_examples(["a, b"], way, TASKS)[0].words for way in ("whitespace", "punctuation")
    )
    assert (whole, split) == (("a,", "b"), ("a", ",", "b"))
    for entity in answers(capsys, tmp_path, "a, b, c, d, e, f")[0]["slots"]:
        assert entity["text"].split()[0] in ("a,", "b,", "c,", "d,", "e,", "f")


RECORDED = """{
  "split_words": "whitespace",
  "tasks": [
    {
      "kind": "sentence",
      "name": "mood",
      "labels": [
        "bad",
        "good",
        "so"
      ],
      "pooling": "cls"
    },
    {
      "kind": "tokens",
      "name": "slots",
      "labels": [
        "O",
        "B-x",
        "I-x",
        "B-y",
        "I-y"
      ]
    },
    {
      "kind": "regression",
      "name": "stars",
      "labels": [],
      "pooling": "mean"
    },
    {
      "kind": "similarity",
      "name": "likeness",
      "labels": [],
      "pooling": "mean"
    }
  ]
}
"""


def test_a_run_of_an_earlier_version_opens(tmp_path: Path) -> None:
    """tasks.json and the names in heads.safetensors as the version of commit b8ba89b wrote them."""
    tasks = [*TASKS, *PAIRS]
    model = save(tmp_path, tasks, "whitespace")
    assert (tmp_path / "tasks.json").read_text() == RECORDED
    heads = read_tensors(tmp_path / "heads.safetensors")
    assert heads.keys() == {
        f"{name}.classifier.{key}"
        for name in ("mood", "slots", "stars")
        for key in ("weight", "bias")
    }
    again = load_run(tmp_path)
    assert [type(task) for task in again.tasks] == [type(task) for task in tasks]
    examples = predict.to_examples(["a b\tc", "d e"], again.splitting, again.tasks)
    items = prepare(examples, again.encoder.tokenizer, again.tasks)
    found = evaluation.predict(again.model, again.tasks, items)
    make_fast(model)
    assert found == evaluation.predict(model, tasks, items)
    assert [set(of_item) for of_item in found] == [
        {"mood", "slots", "stars", "likeness"},
        {"mood", "slots", "stars"},
    ]


@pytest.mark.parametrize("program", ["predict", "evaluate"])
def test_an_interrupted_program_stops_quietly(
    run: Path, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"train.{program}.load_run", interrupt)
    more = ["a text"] if program == "predict" else ["--data", "newsroom"]
    main = {"predict": predict.main, "evaluate": evaluate.main}[program]
    assert main([str(run), *more]) == 130
    assert capsys.readouterr().err == "stopped\n"


# Pairs


def test_pairs_are_two_texts_with_a_tab_between(
    pair_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = answers(capsys, pair_run, "ab c\tab c", "ab c\td e f", "d e f\tab c")
    assert [(record["text"], record["second"]) for record in records] == [
        ("ab c", "ab c"),
        ("ab c", "d e f"),
        ("d e f", "ab c"),
    ]
    scores = [record["likeness"]["score"] for record in records]
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores[1] == pytest.approx(scores[2], abs=1e-6)
    assert scores[1] < 0.995
    encoder = SentenceEncoder.from_pretrained(pair_run / "model", device="cpu")
    first, second = encoder.encode(["ab c", "d e f"], normalize=True)
    # the saved model itself gives the score
    assert scores[1] == pytest.approx(float(first @ second), abs=1e-5)
    assert predict.main([str(pair_run), "ab c\tab c"]) == 0
    assert capsys.readouterr().out == "ab c\nab c\n  likeness: 1.0000\n"


def test_a_run_of_pairs_wants_pairs(pair_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = complaint(capsys, predict, pair_run, "a\tb", "a b")
    assert message == "text 2 is one text, and this run compares two: TEXT, a tab, TEXT"
    assert complaint(capsys, predict, pair_run, "a\t ") == "text 1 is blank"


def test_without_a_task_for_pairs_a_tab_is_white_space(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tab, space = answers(capsys, run, "ab\tc d", "ab c d")
    assert "second" not in tab
    assert tab | {"text": ""} == space | {"text": ""}


def test_a_run_of_both_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, [*TASKS, *PAIRS])
    pair, single = answers(capsys, tmp_path, "ab c\td", "ab c")
    assert "likeness" in pair
    assert "likeness" not in single
    assert pair["mood"]["label"] == single["mood"]["label"]  # of the first text


# Misuse


def test_misuse_of_predict(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert complaint(capsys, predict, run, "a", " ") == "text 2 is blank"
    assert complaint(capsys, predict, run, "") == "text 1 is blank"
    both = complaint(capsys, predict, run, "a", "--input", "-")
    assert both == "give texts as arguments or as --input, not both"
    absent = complaint(capsys, predict, run, "--input", tmp_path / "absent")
    assert absent == f"cannot read {tmp_path}/absent: No such file or directory"
    assert (
        complaint(capsys, predict, tmp_path, "a")
        == f"{tmp_path} is no finished run: it has no tasks.json"
    )
    stdin(monkeypatch, b"good\n\xff\n")
    assert complaint(capsys, predict, run).startswith("standard input, line 2: not UTF-8 text")
    stdin(monkeypatch, b"good\n\nbad\n")
    assert complaint(capsys, predict, run) == "text 2 is blank"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert complaint(capsys, predict, run).startswith(
        "no texts: give them as arguments, as --input FILE"
    )


# python -m train.evaluate


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, records in splits.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records)
        )
    return folder


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert evaluate.main([*map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluating_a_run_on_its_own_predictions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = answers(capsys, run, *TEXTS)
    gold = [
        {
            "text": r["text"],
            "mood": r["mood"]["label"],
            "stars": r["stars"]["score"],
            "new": "ignored",
        }
        for r in records
    ]
    folder = write(
        tmp_path / "data", test=gold, dev=[{**gold[0], "mood": "bad"}, {**gold[0], "mood": "good"}]
    )
    metrics = evaluated(capsys, run, "--data", folder)
    assert metrics.keys() == {"mood", "stars"}
    assert metrics["mood"]["accuracy"] == 1
    assert metrics["stars"]["pearson"] == pytest.approx(1, abs=1e-4)
    assert metrics["stars"]["root_mean_squared_error"] < 1e-4
    assert evaluated(capsys, run, "--data", folder, "--split", "dev")["mood"]["accuracy"] <= 0.5
    # a single file is all that there is
    assert evaluated(capsys, run, "--data", folder / "test.jsonl") == metrics


def test_whole_numbers_are_scores_where_the_run_has_scores(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test.csv").write_text("text,stars\nab,3\nc,4\n")
    assert set(evaluated(capsys, run, "--data", tmp_path)["stars"]) == {
        "spearman",
        "pearson",
        "root_mean_squared_error",
    }


def test_repaired_tags_are_announced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, test=[{"words": ["a", "b"], "slots": ["O", "I-x"]}])
    assert evaluate.main([str(run), "--data", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {"slots"}
    assert err == f"{folder}, test: 1 slots tags I- that continued nothing were read as B-\n"


def test_misuse_of_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(
        tmp_path,
        train=[{"text": "a", "mood": "good"}],
        test=[{"text": "a", "mood": "odd"}],
        dev=[{"text": "a"}],
    )
    for arguments, message in (
        (
            ["--data", folder],
            f"{folder}/test.jsonl, line 1: the mood label 'odd' does not occur in the training "
            "data",
        ),
        (["--data", folder, "--split", "dev"], f"{folder} has no label of mood, slots, stars"),
        (
            ["--data", folder, "--split", "val"],
            f"{folder} has no val split; it has train, dev, test",
        ),
        (
            ["--data", tmp_path / "absent"],
            f"--data {tmp_path}/absent: there is no such file or folder; the project's",
        ),
        (["--data", "notebook"], "notebook has no label of mood, slots, stars"),
    ):
        assert complaint(capsys, evaluate, run, *arguments).startswith(message)
    assert complaint(capsys, evaluate, folder, "--data", folder).startswith(
        f"{folder} is no finished run"
    )


def test_examples_name_the_text_that_is_wrong() -> None:
    with pytest.raises(InputError, match="text 3 is blank"):
        predict.to_examples(["a", "b", "\t\n"], "whitespace", TASKS)
