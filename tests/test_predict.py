"""predict.py and evaluate.py as programs: a saved run answers as the model did before, from
wherever texts come.

Evidence: a small random BERT with a head of every kind, saved as a run saves it; what the programs
print is held against the model itself, and every misuse is one line on stderr with exit status 2.
"""

import io
import json
import sys
from collections.abc import Iterator, Sequence
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
from train.batches import collate, prepare
from train.data.examples import Example
from train.model import JointModel, make_fast
from train.saved import load_run, save_run
from train.settings import Settings
from train.tags import BIO
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.multilabel import MultilabelClassification
from train.tasks.multiple_choice import MultipleChoice
from train.tasks.question_answering import QuestionAnswering
from train.tasks.records import Prediction
from train.tasks.regression import SentenceRegression
from train.tasks.similarity import PairSimilarity
from train.tasks.tagging import TokenTagging
from train.unlabelled import Unlabelled, from_json_lines, from_lines

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


def complaint(
    capsys: pytest.CaptureFixture[str], program: Any, *arguments: Any, before: str = ""
) -> str:
    """The program's error. before: the first texts, whose predictions are printed all the same."""
    assert program.main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if not line.startswith(" ")] == before.splitlines()
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
        scores = found["mood"].scores or {}
        assert list(record["mood"]["scores"]) == list(scores) == ["bad", "good", "so"]
        assert record["mood"] == {
            "label": found["mood"].label,
            "probability": pytest.approx(found["mood"].probability, rel=1e-5),
            "scores": pytest.approx(scores, rel=1e-5),
        }
        assert sum(scores.values()) == pytest.approx(1)
        assert record["stars"] == {"score": pytest.approx(found["stars"].label, rel=1e-5)}
        tags, sure = found["slots"].label, found["slots"].probability
        assert isinstance(tags, tuple)
        assert isinstance(sure, tuple)
        assert {(e["type"], *e["words"]) for e in record["slots"]} == BIO.entities(tags)
        entities += len(record["slots"])
        for entity in record["slots"]:
            start, end = entity["words"]
            text = item.example.text[entity["start"] : entity["end"]]
            assert entity["text"] == text
            assert text.replace(" ", "") == "".join((item.example.words or ())[start:end])
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
    example = Example("a", {}, "", ("a",))
    found = {"slots": Prediction(("O",), (1.0,))}
    lines = predict.as_lines(Unlabelled(example, {}), found, TASKS)
    assert lines == "a\n  slots: none"


def words_of(texts: Sequence[str], splitting: str) -> list[tuple[str, ...] | None]:
    return [one.example.words for one in from_lines(texts, splitting, TASKS)]


def test_words_are_split_as_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words_of(["it's  a\u00a0b."], "whitespace") == [("it's", "a", "b.")]
    assert words_of(["it's a"], "punctuation") == [("it", "'", "s", "a")]
    save(tmp_path, TASKS, "whitespace")
    assert load_run(tmp_path).splitting == "whitespace"
    for entity in answers(capsys, tmp_path, "a, b, c, d, e, f")[0]["slots"]:
        assert entity["text"].split()[0] in ("a,", "b,", "c,", "d,", "e,", "f")


def test_words_can_be_given_ready(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run that splits at punctuation too: as a list, or by spaces."""
    words = ["it's", "a", "b.c", "day!"]
    (tmp_path / "words.jsonl").write_text(json.dumps({"words": words}) + "\n")
    (listed,) = answers(capsys, run, "--input", tmp_path / "words.jsonl")
    (spaced,) = answers(capsys, run, "--words", " ".join(words))
    assert listed["words"] == words
    assert listed["slots"] == spaced["slots"]
    (item,) = prepare(
        [Example(" ".join(words), {}, "", tuple(words))],
        load_run(run).encoder.tokenizer,
        TASKS,
    )
    opened = load_run(run)
    (found,) = evaluation.predict(opened.model, opened.tasks, [item])
    tags = found["slots"].label
    assert {(e["type"], *e["words"]) for e in listed["slots"]} == BIO.entities(tags)
    assert words_of(["it's a"], "whitespace") != words_of(["it's a"], "punctuation")


def test_a_run_without_tags_reads_a_text_as_its_training_did() -> None:
    """Texts are split into words only for a task that labels words."""
    (one,) = from_lines(["it's  a"], "whitespace", TASKS[:1])
    assert one.example == Example("it's  a", {}, "text 1")


# All classes


def test_top_and_all_show_the_probabilities_of_classes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = answers(capsys, run, "ab c, d!")
    scores = record["mood"]["scores"]
    best = sorted(scores, key=lambda label: -scores[label])
    (limited,) = answers(capsys, run, "ab c, d!", "--top", 2)
    assert limited["mood"]["scores"] == {k: v for k, v in scores.items() if k != best[-1]}
    assert limited | {"mood": 0} == record | {"mood": 0}
    for option, count in (("--all",), 3), (("--top", "2"), 2), (("--top", "9"), 3):
        assert predict.main([str(run), "ab c, d!", *option]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].startswith(f"  mood: {best[0]} (")
        shown = [line.split() for line in lines[2 : 2 + count]]
        assert shown == [[label, f"{scores[label]:.4f}"] for label in best[:count]]
        assert lines[2 + count].startswith("  slots: ")
    assert complaint(capsys, predict, run, "a", "--top", 0) == "--top 0: must be at least 1"


def test_top_limits_the_probabilities_not_the_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, [MultilabelClassification("kinds", tuple("abcdef"))])
    limited, whole = (answers(capsys, tmp_path, *TEXTS, "--top", top) for top in (1, 6))
    assert max(len(record["kinds"]["labels"]) for record in whole) > 1
    for record, same in zip(limited, whole, strict=True):
        assert record["kinds"]["labels"] == same["kinds"]["labels"]
        ((best, score),) = record["kinds"]["scores"].items()
        assert score == same["kinds"]["scores"][best] == max(same["kinds"]["scores"].values())


# Long texts


def test_what_was_cut_off_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 tokens are read, two of them [CLS] and [SEP]."""
    long = " ".join("ab" for _ in range(70))
    assert predict.main([str(run), "--json", "ab", long, "ab"]) == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    (pieces,) = (
        load_run(run)
        .encoder.tokenizer.limited()
        .backend.encode_batch([long], add_special_tokens=False)
    )
    lost = len(pieces) - 62
    assert [record.get("cut") for record in records] == [None, lost, None]
    assert err == (
        "warning: 1 of 3 texts are longer than 64 tokens, and were cut off: --stride N reads them "
        "in windows\n"
    )
    assert predict.main([str(run), long]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  cut: {lost} tokens not seen"


def test_windows_read_all_of_a_long_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mean of the logits of two windows; the second has the text's end."""
    model = save(tmp_path, TASKS[:1])
    letters = [*"abcdefghij" * 8]
    run = load_run(tmp_path)
    (whole,) = answers(capsys, tmp_path, "--stride", 10, " ".join(letters))
    assert "cut" not in whole
    make_fast(model)
    examples = [Example(" ".join(part), {}, "") for part in (letters[:62], letters[52:])]
    items = prepare(examples, run.encoder.tokenizer, TASKS[:1])
    with torch.no_grad():
        batch = collate(items, TASKS[:1])
        logits = model.heads["mood"](model(batch), batch.layout, None)
        wanted = logits.mean(0).softmax(-1).tolist()
    assert list(whole["mood"]["scores"].values()) == pytest.approx(wanted, rel=1e-4)
    message = complaint(capsys, predict, tmp_path, "--stride", 0, "a")
    assert message == "--stride 0: must be at least 1"


# JSON lines


def test_json_lines_keep_their_own_fields(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order given; what they say of a task gives way to the prediction."""
    lines: list[dict[str, Any]] = [
        {"id": 7, "text": "ab c, d!", "source": {"page": 3}, "kept": True},
        {"text": "x", "mood": "right or not"},
        {"text_a": "ab", "text_b": "c", "id": "two"},
    ]
    content = "\n\n".join(map(json.dumps, lines)) + "\n"
    file = write_text_file(tmp_path / "some.jsonl", content)
    records = answers(capsys, run, "--input", file)
    assert [list(record) for record in records] == [
        [*lines[0], "mood", "slots", "stars"],
        ["text", "mood", "slots", "stars"],
        [*lines[2], "mood", "slots", "stars"],
    ]
    plain = answers(capsys, run, "ab c, d!", "x")
    for record, line, same in zip(records, lines, plain, strict=False):
        assert record == line | same
    other = write_text_file(tmp_path / "some.txt", content)
    assert answers(capsys, run, "--input", other, "--json-lines") == records
    stdin(monkeypatch, content.encode())
    assert answers(capsys, run, "--json-lines") == records


def test_json_lines_are_read_by_the_names_of_the_training_data(tmp_path: Path) -> None:
    """What the user called text there, our own names, and those that other people's files have."""
    lines = [
        {"id": 1, "tweet": "ab", "text": "not this"},
        {"text": "ab", "label": {"odd": True}},
        {"sentence": "ab"},
        {"question": "ab", "context": "c d"},
        {"text": "ab", "choices": ["c", "d"]},
    ]
    tasks = [*TASKS[:1], QuestionAnswering("answer"), MultipleChoice("ending")]
    found = [
        (one.example.text, one.example.second, one.example.choices, one.example.id)
        for one in from_json_lines(
            map(json.dumps, lines), "x", "whitespace", tasks, [("text", "tweet"), ("label", "y")]
        )
    ]
    assert found == [
        ("ab", None, None, 1),
        ("ab", None, None, None),
        ("ab", None, None, None),
        ("ab", "c d", None, None),
        ("ab", None, ("c", "d"), None),
    ]


def test_what_comes_before_a_bad_line_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for bad, message in (
        ('{"text": "b"', "not JSON (Expecting ',' delimiter at character 12)"),
        ("[1]", "must be an object with a text, not list"),
        ('{"text": " "}', "a text must be a string that is not blank, not ' '"),
    ):
        file = write_text_file(tmp_path / "x.jsonl", f'{{"text": "ab"}}\n{bad}\n{{"text": "c"}}\n')
        assert complaint(capsys, predict, run, "--input", file, before="ab") == (
            f"{file}, line 2: {message}"
        )


def test_memory_stays_flat(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No more lines are read ahead than one window holds, and the windows do not matter."""
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 40)
    opened = load_run(run)
    read = most = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for i in range(50):
            read += 1
            yield f"ab {'c' * (i % 9)} x"

    found = []
    for given, predictions in predict.stream(
        opened, from_lines(lines(), opened.splitting, opened.tasks)
    ):
        found.append((given.example.text, predictions["mood"].label))
        most = max(most, read - len(found))
    assert most <= 40 // 8
    monkeypatch.undo()
    texts = [text for text, _ in found]
    assert texts == [f"ab {'c' * (i % 9)} x" for i in range(50)]
    records = answers(capsys, run, *texts)
    assert found == [(record["text"], record["mood"]["label"]) for record in records]


def write_text_file(file: Path, content: str) -> Path:
    file.write_text(content, encoding="utf-8")
    return file


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
    write_text(tmp_path / "tasks.json", RECORDED)
    heads = read_tensors(tmp_path / "heads.safetensors")
    assert heads.keys() == {
        f"{name}.classifier.{key}"
        for name in ("mood", "slots", "stars")
        for key in ("weight", "bias")
    }
    again = load_run(tmp_path)
    assert [type(task) for task in again.tasks] == [type(task) for task in tasks]
    given = from_lines(["a b\tc", "d e"], again.splitting, again.tasks)
    examples = [one.example for one in given]
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

    opener = {"predict": "load_run", "evaluate": "open_run"}[program]
    monkeypatch.setattr(f"train.{program}.{opener}", interrupt)
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


def test_pairs_and_questions_can_be_options(
    pair_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = answers(capsys, pair_run, "ab c\td e", "x\tab")
    assert answers(capsys, pair_run, "--pair", "ab c", "d e", "--pair", "x", "ab") == wanted
    assert answers(capsys, pair_run, "--question", "x", "--context", "ab") == wanted[1:]
    for more, message in (
        (["--question", "x"], "a question needs both --question and --context"),
        (["--pair", "x", " "], "pair 1: a text of it is blank"),
        (
            ["--pair", "x", "ab", "--input", "-"],
            "give texts, --input, or pairs and questions: only one of them",
        ),
        (
            ["--json-lines", "--words", "--input", "/dev/null"],
            "JSON lines hold their own texts, words and choices",
        ),
    ):
        assert complaint(capsys, predict, pair_run, *more) == message


def test_a_run_of_pairs_wants_pairs(pair_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = complaint(capsys, predict, pair_run, "a\tb", "a b", before="a\nb")
    assert message.startswith("text 2 is one text, and no task here reads that: likeness (")
    assert "Give a pair (TEXT, a tab, TEXT; or --pair)" in message
    assert complaint(capsys, predict, pair_run, "a\t ") == "text 1 is blank"


def test_without_a_task_for_pairs_a_tab_is_white_space(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tab, space = answers(capsys, run, "ab\tc d", "ab c d")
    assert "second" not in tab
    assert {**tab, "text": "", "slots": 0} == {**space, "text": "", "slots": 0}
    assert [e["words"] for e in tab["slots"]] == [e["words"] for e in space["slots"]]


def test_a_question_is_answered_by_a_slice_of_its_context(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, [QuestionAnswering("answer")])
    context = "it's a  fine day, ab c!"
    (record,) = answers(capsys, tmp_path, "--question", "ab c", "--context", context)
    assert (record["text"], record["second"]) == ("ab c", context)
    found = record["answer"]
    assert found["answer"]
    assert context[found["start"] : found["end"]] == found["answer"]
    assert predict.main([str(tmp_path), "--question", "ab c", "--context", context]) == 0
    shown = capsys.readouterr().out.splitlines()[2]
    assert shown == f"  answer: {found['answer']} ({found['probability']:.2f})"
    message = complaint(capsys, predict, tmp_path, "one text")
    assert message.startswith("text 1 is one text, and no task here reads that: answer (question)")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_record_with_a_number_that_is_no_json(
    number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its prediction would repeat it."""
    run, file = tmp_path / "run", tmp_path / "a.jsonl"
    save(run, [MultipleChoice("ending", "cls")])
    file.write_text(f'{{"text": "ab c", "choices": ["a", "b"], "id": {number}}}\n')
    message = complaint(capsys, predict, run, "--input", file)
    assert message == f"{file}, line 1: holds NaN or an infinite number, which is no JSON"


def test_a_choice_is_made_for_each_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, [MultipleChoice("ending", "cls")])
    choices = ["a fine day", "so", "x"]
    options = [word for choice in choices for word in ("--choice", choice)]
    records = answers(capsys, tmp_path, "ab c", "it's a", *options)
    assert [record["text"] for record in records] == ["ab c", "it's a"]
    for record in records:
        assert record["choices"] == choices
        made = record["ending"]
        assert made["choice"] == choices[int(made["label"])]
        assert made["scores"][made["label"]] == max(made["scores"].values())
        assert len(made["scores"]) == 3
    assert "--choice" in complaint(capsys, predict, tmp_path, "ab c")


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
    assert complaint(capsys, predict, run, "a", " ", before="a") == "text 2 is blank"
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
    assert complaint(capsys, predict, run, before="good").startswith(
        "standard input, line 2: not UTF-8 text"
    )
    stdin(monkeypatch, b"good\n\nbad\n")
    assert complaint(capsys, predict, run, before="good") == "standard input, line 2 is blank"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert complaint(capsys, predict, run).startswith(
        "no texts: give them as arguments, as --input FILE"
    )


def test_what_no_task_reads_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = complaint(capsys, predict, run, "--pair", "a", "b")
    assert pair.startswith("pair 1 has a second text, which no task here reads: mood (sentence")
    choices = complaint(capsys, predict, run, "a", "--choice", "b", "--choice", "c")
    assert choices.startswith("text 1 has choices, which no task here reads: mood (sentence")
    (tmp_path / "x.jsonl").write_text('{"query": "a", "passage": "b"}\n')
    assert complaint(capsys, predict, run, "--input", tmp_path / "x.jsonl") == (
        f"{tmp_path}/x.jsonl, line 1: needs text, or words, or text_a and text_b, or anchor and "
        "positive; it has query, passage"
    )


def test_a_long_text_is_not_taken_for_a_folder(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file can have a name of 400 characters, and asking for one is an error of its own."""
    text = "ab c " + " " * 400
    assert answers(capsys, "--model", run, text) == answers(capsys, run, text)
    assert complaint(capsys, predict, text, "ab").endswith(
        "is no finished run: it has no tasks.json"
    )
    assert "no folder" in complaint(capsys, predict, "--model", text, "ab")


def test_what_to_predict_with_is_named_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers(capsys, "--model", run, "ab c") == answers(capsys, run, "ab c")
    for arguments, message in (
        ([], "nothing to predict with: name the folder of a finished run, or --model"),
        (["--model", "x", run, "ab"], f"give the run {run} or --model x, not both"),
        ([run, "ab", "--revision", "v1"], "--revision is of --model, and there is none"),
        (["a text", "b"], "a text is no finished run: it has no tasks.json"),
        (
            [run / "model", "ab"],
            f"{run}/model is a model, not a run: python -m train.predict --model {run}/model",
        ),
    ):
        assert complaint(capsys, predict, *arguments) == message


# python -m train.evaluate


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, records in splits.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records)
        )
    return folder


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert evaluate.main([*map(str, arguments), "--json"]) == 0
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
    stars = evaluated(capsys, run, "--data", tmp_path)["stars"]
    assert {"spearman", "root_mean_squared_error", "loss"} <= set(stars)
    assert stars["loss"] > 0


def test_what_is_behind_the_metrics(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON, and the same for people. Labels that the run does not have are mistakes."""
    records = answers(capsys, run, *TEXTS)
    moods = [record["mood"]["label"] for record in records]
    wrong = "bad" if moods[1] == "good" else "good"
    gold = [moods[0], wrong, "odd"]
    labelled = [{"text": t, "mood": m} for t, m in zip(TEXTS, gold, strict=True)]
    folder = write(tmp_path / "data", test=labelled)
    mood = evaluated(capsys, run, "--data", folder)["mood"]
    assert mood["accuracy"] == pytest.approx(1 / 3)
    assert mood["per_label"]["odd"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    labels, counts = mood["confusion"]["labels"], mood["confusion"]["counts"]
    assert labels[-1] == "odd"  # after those of the run, in its order
    for right, predicted in zip(gold, moods, strict=True):
        assert counts[labels.index(right)][labels.index(predicted)] >= 1
    assert sum(map(sum, counts)) == sum(b["count"] for b in mood["calibration"]["bins"]) == 3
    assert {entry["text"] for entry in mood["worst"]} == set(TEXTS[1:])
    assert {(entry["gold"], entry["predicted"]) for entry in mood["worst"]} == {
        (wrong, moods[1]),
        ("odd", moods[2]),
    }
    assert evaluate.main([str(run), "--data", str(folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mood", "accuracy", "33.33"] in lines
    assert ["odd", "0.00", "0.00", "0.00", "1"] in lines
    assert ["right", "odd"] in lines
    assert not any(line[:2] == ["slots", "f1"] for line in lines)  # of which nothing is known


def test_tags_of_a_looser_scheme_are_read_by_that_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An I- that continues nothing begins an entity."""
    found = []
    for tag in ("I-x", "B-x"):
        folder = write(tmp_path / tag, test=[{"words": ["a", "b"], "slots": ["O", tag]}])
        metrics = evaluated(capsys, run, "--data", folder)["slots"]
        found.append([metrics[name] for name in ("precision", "recall", "f1")])
    assert found[0] == found[1]


def test_misuse_of_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(
        tmp_path,
        train=[{"text": "a", "mood": "good"}],
        test=[{"text": "a", "mood": "good"}],
        dev=[{"text": "a"}],
    )
    for arguments, message in (
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
    assert complaint(capsys, evaluate, folder, "--data", folder).startswith(f"{folder} has no ")


def test_examples_name_the_text_that_is_wrong() -> None:
    with pytest.raises(InputError, match="text 3 is blank"):
        words_of(["a", "b", "\t\n"], "whitespace")
