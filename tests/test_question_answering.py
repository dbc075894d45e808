"""Answers to questions: SQuAD's files, its rules of measuring, windows, and whole runs."""

import json
import math
import random
import re
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minibert.files import InputError
from minibert.tokenizer import Tokenizer
from tests.training import FILLERS, NAMES, PLACES, make_world, metrics_of, write_model
from tools import split_squad
from train import run
from train.batches import Item, collate, prepare
from train.data.examples import Answers, DataSet, Example
from train.data.read import read_source
from train.evaluation import predict
from train.saved import load_run
from train.settings import Settings
from train.span_metrics import (
    answer_f1,
    answer_scores,
    best_margin,
    exact_match,
    normalize_answer,
)
from train.tasks import build_tasks, check_labels, task_from
from train.tasks.answers import AnswerPrediction, Candidate
from train.tasks.question_answering import QuestionAnswering

pytestmark = pytest.mark.usefixtures("one_thread")


# SQuAD's rules


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        (["the Eiffel Tower"], "Eiffel tower!", 1, 1),
        (["Denver Broncos"], "The Denver Broncos of 2015", 0, 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        (["in 1990", "1990"], "1990", 1, 1),
        (["a b b c"], "b b d", 0, 2 * (2 / 3) * (2 / 3) / (4 / 3)),  # "a" is an article
        (["10,000"], "10000", 1, 1),
        (["left-hand"], "left hand", 0, 0),
        ([], "", 1, 1),
        ([], "something", 0, 0),
        (["something"], "", 0, 0),
        (["the"], "", 1, 1),  # nothing is left of it, and so no answer is right
        (["the", "cat"], "", 0, 0),
    ],
)
def test_answers_worked_by_hand(gold: list[str], predicted: str, exact: float, f1: float) -> None:
    assert exact_match(gold, predicted) == exact
    assert answer_f1(gold, predicted) == pytest.approx(f1)


def test_the_means_are_of_all_and_of_those_with_an_answer() -> None:
    gold = [["red"], ["dark red"], [], []]
    assert answer_scores(gold, ["red", "red", "", "blue"]) == {
        "f1": pytest.approx((1 + 2 / 3 + 1 + 0) / 4),
        "exact_match": 2 / 4,
        "has_answer_f1": pytest.approx((1 + 2 / 3) / 2),
        "has_answer_exact_match": 1 / 2,
        "no_answer_accuracy": 1 / 2,
    }
    assert set(answer_scores([], []).values()) == {0}


def official_f1(gold: str, predicted: str) -> float:
    """As the script states it: token counts, precision, recall, their harmonic mean."""

    def tokens(text: str) -> list[str]:
        text = "".join(sign for sign in text.lower() if sign not in set(string.punctuation))
        text = re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text)
        return " ".join(text.split()).split() if text else []

    right, found = tokens(gold), tokens(predicted)
    common = sum((Counter(right) & Counter(found)).values())
    if not right or not found:
        return float(right == found)
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(right)
    return (2 * precision * recall) / (precision + recall)


WORDS = st.lists(st.sampled_from(["the", "A", "cat", "cat.", "Dog", "x-y", "10", ","]), max_size=6)


@settings(max_examples=100)
@given(WORDS, WORDS)
def test_f1_is_that_of_the_script(gold: list[str], predicted: list[str]) -> None:
    texts = " ".join(gold), " ".join(predicted)
    assert answer_f1([texts[0]], texts[1]) == pytest.approx(official_f1(*texts))
    assert exact_match([texts[0]], texts[1]) == (
        normalize_answer(texts[0]) == normalize_answer(texts[1])
    )


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([-1.0, 0.0, 0.5, 1.0])), min_size=1))
def test_the_margin_is_the_best_of_all(pairs: list[tuple[float, float]]) -> None:
    """Of all that decide differently; no margin occurs twice."""
    pairs = list(dict(pairs).items())
    margins, gains = [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def total(threshold: float) -> float:
        return sum(gain for margin, gain in pairs if not margin > threshold)

    found = best_margin(margins, gains)
    assert total(found) == pytest.approx(max(total(t) for t in [*margins, min(margins) - 1]))


# SQuAD's files


def squad(*paragraphs: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "Cats", "paragraphs": list(paragraphs)}], **others}


def asked(question: str = "Who?", **others: Any) -> dict[str, Any]:
    return {"question": question, "id": "q1", **others}


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_both_versions_are_read(tmp_path: Path) -> None:
    first = {"text": "Tom", "answer_start": 0}
    second = {"text": "a cat", "answer_start": 7}
    qas = [
        asked(" Who? ", answers=[first, second]),
        asked("What?", answers=[], is_impossible=True, plausible_answers=[first]),
        asked("Where?", answers=[second], is_impossible=False),
        asked("unlabelled?"),
    ]
    file = write(tmp_path / "train.json", squad({"context": "Tom is a cat", "qas": qas}))
    examples = read_source(str(file)).splits["train"]
    assert [example.labels for example in examples] == [
        {"answer": Answers(("Tom", "a cat"), (0, 7))},
        {"answer": Answers((), ())},
        {"answer": Answers(("a cat",), (7,))},
        {},
    ]
    assert [example.text for example in examples] == ["Who?", "What?", "Where?", "unlabelled?"]
    assert {example.second for example in examples} == {"Tom is a cat"}
    assert {example.id for example in examples} == {"q1"}
    assert examples[0].where == f"{file}, article 'Cats', paragraph 1, question 'q1'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": 1}, "must hold a list of objects"),
        ({"data": [1]}, "article 1 is not SQuAD's: it needs 'paragraphs'"),
        ({"data": [{"title": "x"}]}, "article 'x' is not SQuAD's: it needs 'paragraphs'"),
        (squad({"qas": []}), "paragraph 1: context must be a text that is not blank, not None"),
        (squad({"context": "Tom"}), "paragraph 1 is not SQuAD's: it needs 'qas'"),
        (squad({"context": "Tom", "qas": [{}]}), "question None: question must be a text"),
        (squad({"context": "Tom", "qas": [7]}), "question None: question must be a text"),
        (
            squad({"context": "Tom", "qas": [asked(answers=[])]}),
            "question 'q1' has no answer, and `is_impossible` does not say so",
        ),
        (
            squad({"context": "Tom", "qas": [asked(answers=[{"text": "Tom"}])]}),
            "question 'q1': an answer needs answer_start, a whole number",
        ),
        (
            squad({"context": "Tom", "qas": [asked(answers=["Tom"])]}),
            "question 'q1': text must be a text that is not blank",
        ),
    ],
)
def test_what_is_no_squad_is_refused_by_place(tmp_path: Path, content: Any, message: str) -> None:
    file = write(tmp_path / "train.json", content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_source(str(file)).splits["train"]


@pytest.mark.parametrize(("start", "there"), [(1, "'om '"), (-3, "''"), (99, "''")])
def test_an_answer_must_stand_where_it_says(tmp_path: Path, start: int, there: str) -> None:
    qas = [asked(answers=[{"text": "Tom", "answer_start": start}])]
    file = write(tmp_path / "train.json", squad({"context": "Tom is a cat", "qas": qas}))
    wrong = read_source(str(file)).splits["train"]
    right = [replace(wrong[0], labels={"answer": Answers(("Tom",), (0,))})]
    message = re.escape(
        f"{file}, article 'Cats', paragraph 1, question 'q1': the answer 'Tom' of 'Who?' does not "
        f"stand at character {start} of its text, where {there} is"
    )
    with pytest.raises(InputError, match=message):
        build_tasks([DataSet("data", {"train": wrong})], Settings())
    tasks = build_tasks([DataSet("data", {"train": right})], Settings())
    with pytest.raises(InputError, match=message):
        check_labels(wrong, tasks)


def test_the_real_file_and_its_split_by_article(tmp_path: Path, shared: Path) -> None:
    file = shared / "data/xquad/xquad.en.json"
    assert split_squad.main([str(file), "36", str(tmp_path / "xquad")]) == 0
    splits = read_source(str(tmp_path / "xquad")).splits
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 925,
        "test": 265,
    }
    assert len({e.id for examples in splits.values() for e in examples}) == 1190
    contexts = [{e.second for e in examples} for examples in splits.values()]
    assert not contexts[0] & contexts[1]
    build_tasks([DataSet("xquad", splits)], Settings())  # every answer stands where it should
    assert split_squad.main([str(file), "48", str(tmp_path / "none")]) == 2


# Windows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def task_with(overlap: int, threshold: float | None = None) -> QuestionAnswering:
    task = QuestionAnswering("answer", threshold)
    task.overlap = overlap
    return task


def long_item(task: QuestionAnswering, tokenizer: Tokenizer, place: int, length: int = 30) -> Item:
    """A text of fillers with "new york" after so many of them."""
    dice = random.Random(place)
    words = [dice.choice(FILLERS) for _ in range(length)]
    words[place:place] = ["new", "york"]
    text = " ".join(words)
    labels = {"answer": Answers(("new york",), (text.index("new york"),))}
    example = Example("to the", labels, "", second=text)
    (item,) = prepare([example], tokenizer.limited(16), [task])
    return item


def test_the_answer_is_learnt_where_it_is_and_cls_elsewhere(tokenizer: Tokenizer) -> None:
    task = task_with(4)
    for place in (0, 3, 11, 29, 30):
        item = long_item(task, tokenizer, place)
        batch = collate([item], [task])
        assert task.count(batch) == len(item.parts) > 3
        targets = batch.targets["answer"].tolist()
        assert any(target != [0, 0] for target in targets)
        for window, (first, last) in zip(item.parts, targets, strict=True):
            words = [tokenizer.token(number) for number in window.ids]
            whole = "new" in words and "york" in words
            assert [words[first], words[last]] == (["new", "york"] if whole else ["[CLS]"] * 2)


def test_without_an_answer_all_windows_point_at_cls(tokenizer: Tokenizer) -> None:
    task = task_with(4)
    item = long_item(task, tokenizer, 3)
    none = replace(item, example=replace(item.example, labels={"answer": Answers((), ())}))
    assert collate([none], [task]).targets["answer"].tolist() == [[0, 0]] * len(item.parts)


def logits_of(item: Item, seed: int) -> Tensor:
    torch.manual_seed(seed)
    length = max(len(tokens.ids) for tokens in item.parts)
    logits = torch.randn(len(item.parts), length, 2)
    for number, tokens in enumerate(item.parts):
        logits[number, len(tokens.ids) :] = -math.inf
    return logits


def theirs(item: Item, logits: Tensor, overlap: int) -> tuple[list[tuple[float, str]], float]:
    """As `write_predictions` of Google's run_squad.py: all pairs of the 20 best starts and ends,
    what is none of the text or too long left out, a start only where it has most context."""
    sizes = [sum(tokens.type_ids) - 1 for tokens in item.parts]
    found, null = [], math.inf
    text = item.example.second or ""
    begins = [0]
    for size in sizes[:-1]:
        begins.append(begins[-1] + size - overlap)

    def has_most_context(window: int, token: int) -> bool:
        scores = [
            (min(token - begin, begin + size - 1 - token) + 0.01 * size, -number)
            for number, (begin, size) in enumerate(zip(begins, sizes, strict=True))
            if begin <= token < begin + size
        ]
        return -max(scores)[1] == window

    for number, tokens in enumerate(item.parts):
        start, end = logits[number, : len(tokens.ids)].T.tolist()
        null = min(null, start[0] + end[0])
        first_of_text = tokens.type_ids.index(1)
        in_text = range(first_of_text, first_of_text + sizes[number])
        best = [
            sorted(range(len(side)), key=lambda i, side=side: -side[i])[:20]
            for side in (start, end)
        ]
        for s in best[0]:
            for e in best[1]:
                if s not in in_text or e not in in_text or e < s or e - s + 1 > 30:
                    continue
                if not has_most_context(number, begins[number] + s - first_of_text):
                    continue
                offsets = tokens.offsets or []
                found.append((start[s] + end[e], text[offsets[s][0] : offsets[e][1]]))
    return sorted(found, reverse=True), null


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_decoded_as_by_google(tokenizer: Tokenizer, seed: int) -> None:
    for overlap, length in ((4, 30), (6, 17), (3, 4)):
        task = task_with(overlap, threshold=0.5)
        item = long_item(task, tokenizer, 3, length)
        logits = logits_of(item, seed)
        found = task.decode(logits, item)
        wanted, null = theirs(item, logits, overlap)
        distinct = {text: score for score, text in reversed(wanted)}
        scores = sorted(distinct.values(), reverse=True)[:20]
        assert found.candidates[0].text == wanted[0][1]
        assert [c.text for c in found.candidates] == sorted(
            distinct, key=lambda text: -distinct[text]
        )[:20]
        everything = torch.tensor([*scores, null]).softmax(-1)
        assert [c.probability for c in found.candidates] == pytest.approx(everything[:-1].tolist())
        assert found.no_answer == pytest.approx(float(everything[-1]))
        assert found.margin == pytest.approx(null - wanted[0][0])
        assert (found.label.texts == ()) == (found.margin > 0.5)
        text = item.example.second or ""
        assert all(text[c.start : c.end] == c.text for c in found.candidates)


def test_without_a_threshold_every_question_is_answered(tokenizer: Tokenizer) -> None:
    task = task_with(4)
    item = long_item(task, tokenizer, 3)
    logits = logits_of(item, 1)
    logits[:, 0] = 50.0  # [CLS]
    found = task.decode(logits, item)
    assert found.label.texts
    assert sum(c.probability for c in found.candidates) == pytest.approx(1)
    record = task.as_record(found, item.example)
    assert record["candidates"][0] == {k: v for k, v in record.items() if k != "candidates"}
    assert len(record["candidates"]) == 3
    assert task.as_text(found, item.example) == f"{record['answer']} ({record['probability']:.2f})"


def test_a_text_that_gives_no_candidate_has_no_answer(tokenizer: Tokenizer) -> None:
    """All of the best starts and ends are tokens of the question."""
    task = task_with(4)
    example = Example("the " * 24, {}, "", second="new york")
    (item,) = prepare([example], tokenizer, [task])
    (tokens,) = item.parts
    logits = torch.zeros(1, len(tokens.ids), 2)
    logits[0, 1:25] = 1.0
    found = task.decode(logits, item)
    assert (found.label.texts, found.candidates, found.probability) == ((), (), 1.0)
    assert task.as_record(found, example)["answer"] == ""
    logits[0, 26] = 2.0
    assert task.decode(logits, item).label == Answers(("new",), (0,))


def predicted(text: str, margin: float) -> AnswerPrediction:
    candidate = Candidate(text, 0, len(text), 0.75)
    found = AnswerPrediction(None, candidates=(candidate,), margin=margin, no_answer=0.25)
    return found.chosen(0.0)


def item_of(*answers: str) -> Item:
    labels = {"answer": Answers(answers, (0,) * len(answers))}
    return Item(Example("?", labels, "", second=" ".join(answers) or "text"), (), 0)


def test_the_threshold_is_chosen_on_dev_and_kept() -> None:
    task = task_with(4, threshold=0.0)
    items = [item_of("red"), item_of(), item_of("blue"), item_of()]
    found = [
        predicted("red", 1.0),
        predicted("red", 3.0),
        predicted("blue", 2.0),
        predicted("", -1),
    ]
    found[3] = predicted("green", 2.5)
    before = task.measure(items, found)
    assert (before["has_answer_f1"], before["no_answer_accuracy"]) == (0, 1)
    tuned = task.tune(items, found)
    after = task.measure(items, tuned)
    assert (after["f1"], after["exact_match"]) == (1, 1)
    assert task.threshold == 2.0
    again = task_from(json.loads(json.dumps(task.describe())))
    assert isinstance(again, QuestionAnswering)
    assert (again.threshold, again.overlap) == (2.0, 4)
    assert again.summary() == "answer (question, or no answer)"
    answered = task_with(4)  # whose training data leaves no question open
    assert answered.tune(items, found) is found
    assert answered.threshold is None


def test_the_record_of_no_answer() -> None:
    task = task_with(4, threshold=0.0)
    found = predicted("red", 1.0)
    assert task.as_record(found, item_of().example) == {
        "answer": "",
        "start": None,
        "end": None,
        "probability": 0.25,
        "candidates": [
            {"answer": "", "start": None, "end": None, "probability": 0.25},
            {"answer": "red", "start": 0, "end": 3, "probability": 0.75},
        ],
    }
    assert task.as_text(found, item_of().example) == "no answer (0.25)"


def test_what_is_said_of_mistakes() -> None:
    task = task_with(4, threshold=0.0)
    right, half, none = predicted("red", -1.0), predicted("dark red", -1.0), predicted("x", 2.0)
    gold = Answers(("red", "the red"), (0, 0))
    assert task.error(gold, right) == 0
    assert task.error(gold, half) == pytest.approx((1 - 2 / 3) * 0.75)
    assert task.error(gold, none) == pytest.approx(0.25)
    items = [item_of("red", "the red")] * 3
    assert task.confidences(items, [right, half, none]) == [
        (0.75, True),
        (0.75, False),
        (0.25, False),
    ]
    assert task.is_right(gold, Answers(("The red.",), (5,)))
    assert not task.is_right(gold, Answers((), ()))
    assert task.readable(gold, items[0].example) == "red / the red"
    assert task.beside_gold(gold, none) == {
        "gold": ("red", "the red"),
        "predicted": "",
        "probability": 0.25,
    }


def test_pairs_with_other_labels_are_no_questions() -> None:
    task = task_with(4)
    pair = Example("a", {}, "", second="b")
    assert len(task.inputs(pair)) == 1
    assert task.inputs(replace(pair, second=None)) == ()
    assert task.inputs(replace(pair, labels={"score": 0.5})) == ()
    assert len(task.inputs(replace(pair, labels={"answer": Answers((), ())}))) == 1


# Whole runs


def paragraphs(count: int, seed: int, unanswerable: bool) -> dict[str, Any]:
    """Questions "to" for a place and "with" for a name; a text may lack both."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        parts = [
            dice.choice(("a", "the", "now", "my", "please")) for _ in range(dice.randint(6, 30))
        ]
        asks_place = dice.random() < 0.5
        has_answer = not unanswerable or dice.random() < 0.6
        place, name = " ".join(dice.choice(PLACES)), " ".join(dice.choice(NAMES))
        for part in (place, name) if has_answer else ():
            parts.insert(dice.randint(0, len(parts)), part)
        text, answer = " ".join(parts), place if asks_place else name
        start = re.search(rf"\b{answer}\b", text)
        question = asked("to" if asks_place else "with", id=f"{seed}-{number}")
        question["answers"] = [{"text": answer, "answer_start": start.start()}] if start else []
        question["is_impossible"] = start is None
        made.append({"context": text, "qas": [question]})
    return squad(*made)


@pytest.mark.parametrize("unanswerable", [False, True])
def test_a_run_learns_to_answer(
    tmp_path: Path, unanswerable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path)
    write(tmp_path / "squad/train.json", paragraphs(90, 1, unanswerable))
    write(tmp_path / "squad/dev.json", paragraphs(20, 2, unanswerable))
    output = tmp_path / "run"
    options = world.settings(
        tmp_path / "squad", epochs=14, lr=4e-3, stride=5, max_length=16, schedule="constant"
    )
    run.train(options, output)
    assert ", or no answer" in capsys.readouterr().out or not unanswerable
    found = metrics_of(output)["dev"]["answer"]
    assert found["f1"] > 0.85
    assert set(found) == {metric.name for metric in QuestionAnswering.metrics} | {"loss"}
    opened = load_run(output)
    (task,) = opened.tasks
    text = "please now my the a joe doe the now please my a the now please to oslo now now"
    example = Example("with", {}, "", second=text)
    (item,) = prepare([example], opened.encoder.tokenizer, [task])
    assert len(item.parts) > 1
    (answer,) = predict(opened.model, [task], [item])
    record = task.as_record(answer["answer"], example)
    assert (record["answer"], record["start"], record["end"]) == ("joe doe", 20, 27)
