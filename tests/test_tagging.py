"""Tags of any scheme: recognised, read as seqeval reads them, predicted as a valid sequence, learnt
in windows; and tags that are no entities."""

import itertools
import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import seqeval.metrics
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities
from torch import Tensor

from minibert import Bert
from minibert.files import InputError
from minibert.tokenizer import Tokenizer
from minibert.tokens import TruncationWarning
from tests.training import (
    VOCABULARY,
    make_world,
    metrics_of,
    sentence,
    write_json_lines,
    write_model,
)
from train import run
from train.batches import Item, collate, prepare
from train.data.examples import DataSet, Example
from train.evaluation import evaluate, measure, predict
from train.load import load_data
from train.model import JointModel
from train.saved import load_run
from train.settings import Settings
from train.span_metrics import entity_scores, scores_by_type
from train.tags import BIO, SCHEMES, Entity, best_valid, recognise
from train.tasks import build_tasks, check_labels, task_from
from train.tasks.records import Prediction
from train.tasks.tagging import TokenTagging
from train.tasks.windows import best_windows
from train.tasks.words import WordTagging

pytestmark = pytest.mark.usefixtures("one_thread")


# Schemes


def written(entities: set[Entity], length: int, scheme: str) -> list[str]:
    """Entities as tags, by the definitions of the schemes."""
    tags = ["O"] * length
    ends = {(kind, end) for kind, _, end in entities}
    for kind, start, end in sorted(entities, key=lambda entity: entity[1]):
        size = end - start
        if scheme == "BIO":
            letters = "B" + "I" * (size - 1)
        elif scheme == "IOB1":
            letters = ("B" if (kind, start) in ends else "I") + "I" * (size - 1)
        elif scheme == "types":
            letters = ""
        else:
            begin, inside, last, single = SCHEMES[scheme].letters
            letters = single if size == 1 else begin + inside * (size - 2) + last
        tags[start:end] = [f"{letter}-{kind}" for letter in letters] or [kind] * size
    return tags


def some_entities(dice: random.Random, length: int, touching: bool = True) -> set[Entity]:
    """Entities that do not overlap; touching: two of one type may be neighbours."""
    found: set[Entity] = set()
    place, previous = dice.randint(0, 2), ""
    while place < length:
        kind = dice.choice([kind for kind in "xyz" if touching or kind != previous])
        end = min(length, place + dice.choice((1, 1, 2, 3)))
        found.add((kind, place, end))
        gap = dice.choice((0, 0, 1, 2))
        previous = "" if gap else kind
        place = end + gap
    return found


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES", "BILUO", "BMES", "BMEWO", "types"])
def test_a_scheme_is_recognised_and_gives_back_its_entities(scheme: str) -> None:
    dice = random.Random(1)
    wanted = [some_entities(dice, 9, touching=scheme != "types") for _ in range(30)]
    texts = [written(entities, 9, scheme) for entities in wanted]
    assert recognise(texts) is SCHEMES[scheme]
    for entities, tags in zip(wanted, texts, strict=True):
        assert SCHEMES[scheme].entities(tags) == entities
    labels = SCHEMES[scheme].labels({tag for tags in texts for tag in tags})
    assert set(labels) == {tag for tags in texts for tag in tags}
    assert labels[0] == "O"


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "BMES", "BMEWO"])
def test_letters_alone_are_recognised_too(scheme: str) -> None:
    dice = random.Random(1)
    wanted = [some_entities(dice, 9) for _ in range(30)]
    texts = [[tag[0] for tag in written(entities, 9, scheme)] for entities in wanted]
    found = recognise(texts)
    assert found is SCHEMES[f"bare {scheme}"]
    for entities, tags in zip(wanted, texts, strict=True):
        assert found.entities(tags) == {("", i, end) for _, i, end in entities}


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["O O", "O"], "BIO"),
        (["B-x I-x O", "I-x O"], "BIO"),  # one I- that continues nothing: a mistake
        (["I-x I-x O", "O I-y B-y"], "IOB1"),
        (["I-x I-x O", "O B-y"], "BIO"),
        (["I I B O"], "bare IOB1"),
        (["B I O I"], "bare BIO"),
        (["I I O"], "bare IOB1"),
        (["S B E"], "bare BIOES"),  # words of a text that has no spaces
        (["U-x O"], "BILUO"),
        (["PER PER O LOC"], "types"),
        (["O B"], "bare BIO"),
        (["DET NOUN VERB", "NOUN"], None),
        (["B NP"], None),
        (["S-adv NN"], None),
    ],
)
def test_what_is_recognised(texts: list[str], name: str | None) -> None:
    found = recognise([text.split() for text in texts])
    assert (found and found.name) == name


@pytest.mark.parametrize("odd", ["B_x", "b-x", "B-", "o", "NN"])
def test_bio_tags_with_one_that_is_none_are_refused_by_name(odd: str) -> None:
    examples = [
        Example("a b", {"ner": ("B-x", "I-x")}, "file, line 1", ("a", "b")),
        Example("a b", {"ner": ("B-x", odd)}, "file, line 4", ("a", "b")),
    ]
    data = DataSet("data", {"train": examples, "dev": examples[:1]})
    with pytest.raises(InputError, match=f"file, line 4: the ner tag {odd!r} is not BIO"):
        build_tasks([data], Settings())


# Metrics

TAGS = {
    "BIO": ["O", "O", "B-x", "I-x", "B-y", "I-y", "B-x-z", "I-x-z"],
    "BIOES": ["O", *(f"{letter}-{kind}" for kind in "xy" for letter in "BIES")],
    "BILUO": ["O", *(f"{letter}-{kind}" for kind in "xy" for letter in "BILU")],
}


def tagged(scheme: str) -> st.SearchStrategy[list[list[tuple[str, str]]]]:
    """Gold and predicted tags of some texts; broken sequences are among them."""
    tag = st.sampled_from(TAGS[scheme])
    return st.lists(st.lists(st.tuples(tag, tag), min_size=1, max_size=12), min_size=1, max_size=6)


def sides(texts: list[list[tuple[str, str]]]) -> tuple[list[list[str]], list[list[str]]]:
    gold, predicted = ([[pair[side] for pair in text] for text in texts] for side in (0, 1))
    return gold, predicted


def seqevals(gold: Any, predicted: Any, **options: Any) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where there is no entity, and takes 0 as we do
        return [
            float(score(gold, predicted, **options))
            for score in (
                seqeval.metrics.precision_score,
                seqeval.metrics.recall_score,
                seqeval.metrics.f1_score,
            )
        ]


@settings(max_examples=150)
@given(tagged("BIO"))
def test_bio_is_measured_as_in_seqeval(texts: list[list[tuple[str, str]]]) -> None:
    """Its default mode, which is that of CoNLL's script; also for IOB1 and whatever breaks it."""
    gold, predicted = sides(texts)
    for scheme in (BIO, SCHEMES["IOB1"]):
        both = [[scheme.entities(tags) for tags in side] for side in (gold, predicted)]
        assert entity_scores(*both) == pytest.approx(seqevals(gold, predicted), abs=1e-12)
    for tags in gold:
        theirs = seqeval.metrics.sequence_labeling.get_entities(tags)
        assert BIO.entities(tags) == {(kind, start, last + 1) for kind, start, last in theirs}


@pytest.mark.parametrize(("scheme", "theirs"), [("BIOES", IOBES), ("BILUO", BILOU)])
def test_ends_are_measured_as_in_seqevals_strict_mode(scheme: str, theirs: Any) -> None:
    @settings(max_examples=150)
    @given(tagged(scheme))
    def check(texts: list[list[tuple[str, str]]]) -> None:
        gold, predicted = sides(texts)
        both = [[SCHEMES[scheme].entities(tags) for tags in side] for side in (gold, predicted)]
        for tags, found in zip(gold, both[0], strict=True):
            (wanted,) = Entities([tags], theirs).entities
            assert found == {(entity.tag, entity.start, entity.end) for entity in wanted}
        if any(map(any, both)):  # seqeval fails where neither side has an entity
            wanted_scores = seqevals(gold, predicted, mode="strict", scheme=theirs)
            assert entity_scores(*both) == pytest.approx(wanted_scores, abs=1e-12)

    check()


@pytest.mark.parametrize(("scheme", "theirs"), [("BIO", IOB2), ("IOB1", IOB1)])
def test_valid_tags_are_entities_of_seqevals_strict_mode(scheme: str, theirs: Any) -> None:
    dice = random.Random(2)
    for _ in range(100):
        entities = some_entities(dice, 8)
        tags = written(entities, 8, scheme)
        (wanted,) = Entities([tags], theirs).entities
        assert {(entity.tag, entity.start, entity.end) for entity in wanted} == entities
        assert SCHEMES[scheme].entities(tags) == entities


@pytest.mark.parametrize(
    ("scheme", "tags", "wanted"),
    [
        ("BIO", [], set()),
        ("BIO", ["O", "O"], set()),
        ("BIO", ["B-x", "I-x", "B-x", "O"], {("x", 0, 2), ("x", 2, 3)}),
        ("BIO", ["I-x", "I-x"], {("x", 0, 2)}),
        ("BIO", ["O", "I-x", "I-y", "B-y"], {("x", 1, 2), ("y", 2, 3), ("y", 3, 4)}),
        ("BIO", ["B-x-y", "I-x-y", "I-x"], {("x-y", 0, 2), ("x", 2, 3)}),
        ("BIOES", ["B-x", "I-x", "O", "S-x", "E-x", "B-x", "E-x"], {("x", 3, 4), ("x", 5, 7)}),
        ("BMEWO", ["B-x", "M-x", "E-x", "W-y"], {("x", 0, 3), ("y", 3, 4)}),
        ("types", ["x", "x", "y", "O", "y"], {("x", 0, 2), ("y", 2, 3), ("y", 4, 5)}),
        ("bare BIO", ["B", "I", "B", "O", "I"], {("", 0, 2), ("", 2, 3), ("", 4, 5)}),
    ],
)
def test_the_entities_of_tags(scheme: str, tags: list[str], wanted: set[Entity]) -> None:
    assert SCHEMES[scheme].entities(tags) == wanted


def test_an_entity_is_right_only_as_a_whole() -> None:
    gold = [{("x", 0, 2), ("y", 3, 4)}, {("x", 0, 1)}]
    predicted = [{("x", 0, 1), ("x", 3, 4)}, {("x", 0, 1)}]  # too short, of another type, right
    assert entity_scores(gold, predicted) == (1 / 3, 1 / 3, 1 / 3)
    assert scores_by_type(gold, predicted) == {
        "x": {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "support": 2},
        "y": {"precision": 0, "recall": 0, "f1": 0, "support": 1},
    }
    assert entity_scores([], []) == entity_scores([set()], [set()]) == (0, 0, 0)
    assert scores_by_type([], []) == {}


# Valid sequences


def sequences(labels: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return itertools.product(labels, repeat=length)


@pytest.mark.parametrize("name", ["BIO", "IOB1", "BIOES", "BILUO", "BMES", "BMEWO", "types"])
def test_a_sequence_is_valid_if_its_entities_are_written_so(name: str) -> None:
    scheme = SCHEMES[name]
    labels = scheme.labels(["B-x", "B-y"] if scheme.letters else ["x", "y"])
    if name in ("BMES", "BMEWO"):
        labels = tuple(label for label in labels if not label.endswith("y"))
    length = 3 if len(labels) > 6 else 4
    for tags in sequences(labels, length):
        around = ["O", *tags, "O"]
        valid = all(scheme.may_follow(a, b) for a, b in itertools.pairwise(around))
        assert valid == (written(scheme.entities(tags), length, name) == list(tags))


@pytest.mark.parametrize("name", ["BIO", "IOB1", "BIOES", "bare BIOES", "types"])
def test_the_best_valid_sequence_is_the_best_of_all(name: str) -> None:
    scheme = SCHEMES[name]
    labels = scheme.labels(["B-x", "B-y"] if name in ("BIO", "IOB1") else ["S-x"])
    for length in (1, 2, 4):
        for _ in range(10):
            logits = torch.randn(length, len(labels)) * 2
            found = [labels[number] for number in best_valid(logits, labels, scheme)]
            scores = logits.double().log_softmax(-1)

            def total(tags: Sequence[str], scores: Tensor = scores) -> float:
                return sum(float(scores[i, labels.index(tag)]) for i, tag in enumerate(tags))

            valid = [
                tags
                for tags in sequences(labels, length)
                if all(scheme.may_follow(a, b) for a, b in itertools.pairwise(["O", *tags, "O"]))
            ]
            assert tuple(found) in valid
            assert total(found) == pytest.approx(max(map(total, valid)))


# The kinds

WORDS = tuple(word for word in VOCABULARY if word.isalpha())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def task_of(texts: Sequence[str], **options: Any) -> Any:
    """The task of some texts' tags."""
    examples = [
        Example("", {"tags": tuple(text.split())}, f"line {i}", ("a",) * len(text.split()))
        for i, text in enumerate(texts)
    ]
    data = DataSet("data", {"train": examples})
    (task,) = build_tasks([data], Settings(**options))
    return task


@pytest.mark.parametrize(
    ("texts", "summary"),
    [
        (["B-x I-x O", "B-y"], "tags (tokens, 5 labels, BIO)"),
        (["I-x I-x O", "I-y B-y"], "tags (tokens, 5 labels, IOB1)"),
        (["S-x O"], "tags (tokens, 5 labels, BIOES)"),
        (["x O y"], "tags (tokens, 3 labels, types)"),
        (["DET NOUN", "NOUN VERB"], "tags (words, 3 labels, no entities)"),
    ],
)
def test_the_scheme_is_told_and_survives_a_description(texts: list[str], summary: str) -> None:
    task = task_of(texts)
    assert task.summary() == summary
    again = task_from(json.loads(json.dumps(task.describe())))
    assert type(again) is type(task)
    assert again.summary() == summary
    assert again.labels == task.labels


def test_a_run_that_names_no_scheme_is_bio() -> None:
    task = task_from({"kind": "tokens", "name": "tags", "labels": ["O", "B-x", "I-x"]})
    assert isinstance(task, TokenTagging)
    assert task.scheme is BIO
    assert not task.valid_tags


def test_iob1_stays_as_it_is_and_a_broken_bio_is_told() -> None:
    iob1 = [("I-x", "I-x", "O"), ("I-y", "B-y", "O")]
    assert TokenTagging.clean("ner", iob1) == (iob1, "")
    bio = [("B-x", "O", "I-x"), ("B-y", "I-x", "O")]
    cleaned, told = TokenTagging.clean("ner", bio)
    assert cleaned == [("B-x", "O", "B-x"), ("B-y", "B-x", "O")]
    assert told == "ner: 2 tags I- that continued nothing were read as B-"
    bioes = [("B-x", "O", "S-x"), ("B-y", "E-y", "I-y")]
    assert TokenTagging.clean("ner", bioes) == (
        bioes,
        "2 ner tags are part of no whole entity by BIOES",
    )
    for other in ([("x", "O")], [("DET", "NOUN")], [("B-x", "O", "odd")]):
        assert TokenTagging.clean("ner", other) == (other, "")


def test_a_tag_of_another_scheme_is_refused_in_dev() -> None:
    task = task_of(["S-x O", "B-x E-x"])
    words = ("a", "b")
    check_labels([Example("a b", {"tags": ("S-x", "O")}, "line 1", words)], [task])
    with pytest.raises(InputError, match="line 2: the tags tag 'U-x' is not BIOES"):
        check_labels([Example("a b", {"tags": ("U-x", "O")}, "line 2", words)], [task])
    with pytest.raises(InputError, match=r"line 3: .* is of another kind"):
        check_labels([Example("a b", {"tags": "S-x"}, "line 3", words)], [task])
    types = task_of(["x x O"])  # in a text without O, they look like parts of speech
    types.check(Example("a b", {"tags": ("x", "x")}, "line 4", words))


def model_of(folder: Path, task: Any) -> JointModel:
    torch.manual_seed(5)
    return JointModel(Bert.from_pretrained(folder), [task]).eval()


def test_a_tag_that_train_lacks_is_not_learnt_and_costs(folder: Path, tokenizer: Tokenizer) -> None:
    task = TokenTagging("tags", ("O", "B-x", "I-x"))
    words = ("play", "oslo", "rome")
    known, unknown = (
        prepare([Example("", {"tags": tags}, "", words)], tokenizer, [task])
        for tags in (("O", "B-x", "O"), ("O", "B-x", "B-new"))
    )
    batch = collate(unknown, [task])
    assert batch.targets["tags"].tolist() == [0, 1]
    assert batch.positions["tags"].tolist() == collate(known, [task]).positions["tags"][:2].tolist()
    assert task.count(batch) == 2
    right = [{"tags": Prediction(("O", "B-x", "O"), (1.0,) * 3)}]
    found = measure([task], unknown, right)["tags"]
    assert isinstance(found, dict)
    assert (found["precision"], found["recall"]) == (1, 1 / 2)
    words_only = WordTagging("tags", ("O", "B-x"))
    found = measure([words_only], unknown, right)["tags"]
    assert isinstance(found, dict)
    assert found["accuracy"] == 2 / 3
    metrics, _ = evaluate(model_of(folder, task), [task], unknown)
    assert metrics


def windows_of(tokenizer: Tokenizer, length: int, limit: int, overlap: int) -> Item:
    task = WordTagging("tags", ("A", "B"))
    task.overlap = overlap
    dice = random.Random(length)
    words = tuple(dice.choice((*WORDS, "days", "songs")) for _ in range(length))
    tags = tuple(dice.choice("AB") for _ in words)
    example = Example(" ".join(words), {"tags": tags}, "", words)
    (item,) = prepare([example], tokenizer.limited(limit), [task])
    return item


@pytest.mark.parametrize(("limit", "overlap"), [(10, 3), (9, 6), (12, 0), (32, 8)])
def test_each_token_has_the_window_in_which_it_has_most_context(
    tokenizer: Tokenizer, limit: int, overlap: int
) -> None:
    """As `_check_is_max_context` of Google's run_squad.py, which goes over all windows for each
    token."""
    for length in (1, 5, 17, 40):
        parts = windows_of(tokenizer, length, limit, overlap).parts
        step = limit - 2 - overlap
        sizes = [len(part.ids) - 2 for part in parts]
        wanted = []
        for token in range(sizes[-1] + step * (len(parts) - 1)):
            best, best_score = (-1, -1), -1.0
            for number, size in enumerate(sizes):
                start = number * step
                end = start + size - 1
                if start <= token <= end:
                    score = min(token - start, end - token) + 0.01 * size
                    if score > best_score:
                        best, best_score = (number, token - start + 1), score
            wanted.append(best)
        assert best_windows(parts, overlap) == wanted


def test_in_windows_each_word_is_learnt_and_predicted_once(
    folder: Path, tokenizer: Tokenizer
) -> None:
    task = WordTagging("tags", ("A", "B"))
    task.overlap = 4
    item = windows_of(tokenizer, 40, 12, 4)
    assert len(item.parts) > 4
    batch = collate([item], [task])
    assert batch.targets["tags"].tolist() == ["AB".index(t) for t in item.example.labels["tags"]]
    read = batch.input_ids[batch.positions["tags"]].tolist()
    alone = tokenizer.encode_words([[word] for word in item.example.words or ()])
    assert read == [tokens.ids[1] for tokens in alone]  # each word's first piece
    (found,) = predict(model_of(folder, task), [task], [item])
    assert len(found["tags"].label) == 40
    assert found["tags"].cut == 0


def test_predictions_in_one_window_are_those_without_windows(
    folder: Path, tokenizer: Tokenizer
) -> None:
    model = model_of(folder, WordTagging("tags", ("A", "B", "C")))
    found = []
    for overlap in (None, 3):
        task = WordTagging("tags", ("A", "B", "C"))
        task.overlap = overlap
        dice = random.Random(4)
        made = [sentence(dice)["words"] for _ in range(6)]
        examples = [Example("", {}, "", tuple(words)) for words in made]
        found.append(predict(model, [task], prepare(examples, tokenizer, [task])))
    assert found[0] == found[1]


def test_what_was_cut_off_is_told(folder: Path, tokenizer: Tokenizer) -> None:
    task = WordTagging("tags", ("A", "B"))
    example = Example("", {}, "", ("oslo",) * 20)
    with pytest.warns(TruncationWarning):
        items = prepare([example], tokenizer.limited(12), [task])
    (found,) = predict(model_of(folder, task), [task], items)
    assert found["tags"].cut == 10
    assert found["tags"].label[10:] == ("O",) * 10


def test_valid_tags_are_predicted_if_asked_for(folder: Path, tokenizer: Tokenizer) -> None:
    """A random head breaks the rules, and not with `valid_tags`; a word that is not seen is O."""
    plain, valid = (
        task_of(["B-x I-x E-x S-x O", "S-y"], valid_tags=asked) for asked in (False, True)
    )
    model = model_of(folder, plain)
    with torch.no_grad():
        model.heads["tags"].classifier.weight.mul_(20)
    dice = random.Random(6)
    made = [tuple(sentence(dice)["words"]) for _ in range(20)]
    made[3] = ("play", "\x07", "oslo", "in", "rome")  # the second has no piece
    examples = [Example("", {}, "", words) for words in made]
    broken = 0
    for task in (plain, valid):
        items = prepare(examples, tokenizer, [task])
        for found in predict(model, [task], items):
            tags = found["tags"].label
            is_valid = all(
                task.scheme.may_follow(a, b) for a, b in itertools.pairwise(["O", *tags, "O"])
            )
            broken += not is_valid
            assert is_valid or task is plain
            assert all(0 < p <= 1 for p in found["tags"].probability)
        if task is valid:
            assert predict(model, [task], items)[3]["tags"].label[1] == "O"
    assert broken > 5
    assert task_from(json.loads(json.dumps(valid.describe()))).valid_tags  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "words", "wanted"),
    [
        (
            "Coca-Cola  buys AT&T",
            "Coca - Cola buys AT & T",
            [("Coca-Cola", 0, 9), ("AT&T", 16, 20)],
        ),
        (
            "Coca - Cola buys AT & T",
            "Coca - Cola buys AT & T",
            [("Coca - Cola", 0, 11), ("AT & T", 17, 23)],
        ),
        ("something else", "Coca - Cola buys AT & T", [("Coca - Cola",), ("AT & T",)]),
    ],
)
def test_an_entitys_text_is_a_slice_of_the_input(text: str, words: str, wanted: list[Any]) -> None:
    task = TokenTagging("ner", BIO.labels(["B-org"]))
    tags = ("B-org", "I-org", "I-org", "O", "B-org", "I-org", "I-org")
    example = Example(text, {}, "", tuple(words.split()))
    prediction = Prediction(tags, (0.9, 0.8, 0.7, 0.1, 0.6, 0.5, 0.4))
    records = task.as_record(prediction, example)
    found = [tuple(r[key] for key in ("text", "start", "end") if key in r) for r in records]
    assert found == wanted
    assert [record["words"] for record in records] == [[0, 3], [4, 7]]
    assert [record["probability"] for record in records] == [0.7, 0.4]
    assert task.as_text(prediction, example).startswith(f"org: {wanted[0][0]} (0.70); org: ")


def test_entities_without_types_are_called_as_the_task_is() -> None:
    task = task_of(["B I O B"])
    example = Example("new york now", {}, "", ("new", "york", "now"))
    record = task.as_record(Prediction(("B", "I", "O"), (0.5, 0.5, 0.5)), example)
    assert [(one["type"], one["text"]) for one in record] == [("tags", "new york")]


def items_with(tags: Sequence[tuple[str, ...]], tokenizer: Tokenizer, task: Any) -> list[Item]:
    examples = [Example("", {task.name: own}, "", WORDS[: len(own)]) for own in tags]
    return prepare(examples, tokenizer, [task])


def test_word_tags_are_measured_as_in_scikit_learn(tokenizer: Tokenizer) -> None:
    dice = random.Random(8)
    labels = ("ADJ", "DET", "NOUN", "VERB")
    task = WordTagging("upos", labels)
    gold = [tuple(dice.choices((*labels, "X"), k=dice.randint(1, 7))) for _ in range(20)]
    guess = [tuple(dice.choice((tag, *labels)) for tag in own) for own in gold]
    items = items_with(gold, tokenizer, task)
    predictions = [Prediction(own, (0.5,) * len(own)) for own in guess]
    flat = [[tag for own in side for tag in own] for side in (gold, guess)]
    found = task.measure(items, predictions)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(*flat))
    wanted = sklearn.metrics.f1_score(*flat, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(wanted)
    table = sklearn.metrics.classification_report(*flat, output_dict=True, zero_division=0)
    for label, values in task.per_label(items, predictions).items():
        row = table[label]
        wanted_row = [row[key] for key in ("precision", "recall", "f1-score", "support")]
        assert list(values.values()) == pytest.approx(wanted_row)
    assert task.confusions(items, predictions) == list(zip(*flat, strict=True))
    confidences = task.confidences(items, predictions)
    assert sum(right for _, right in confidences) == pytest.approx(
        found["accuracy"] * len(confidences)
    )


def test_the_more_words_are_surely_wrong_the_worse(tokenizer: Tokenizer) -> None:
    task = TokenTagging("ner", BIO.labels(["B-x"]))
    gold = ("B-x", "O", "O")
    assert task.error(gold, Prediction(gold, (0.9, 0.9, 0.9))) == 0
    assert task.error(gold, Prediction(("O", "O", "B-x"), (0.9, 0.9, 0.4))) == pytest.approx(1.3)
    items = items_with([gold], tokenizer, task)
    prediction = Prediction(("B-x", "O", "B-x"), (0.9, 0.8, 0.4))
    assert task.per_label(items, [prediction]) == {
        "x": {"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "support": 1}
    }
    assert task.confidences(items, [prediction]) == [(0.9, True), (0.8, True), (0.4, False)]
    assert task.confusions(items, [prediction]) == []


# Whole runs


def as_iob1(tags: Sequence[str]) -> list[str]:
    return written(BIO.entities(tags), len(tags), "IOB1")


def as_bioes(tags: Sequence[str]) -> list[str]:
    return written(BIO.entities(tags), len(tags), "BIOES")


def as_types(tags: Sequence[str]) -> list[str]:
    return [tag.partition("-")[2] or "O" for tag in tags]


def as_parts_of_speech(tags: Sequence[str]) -> list[str]:
    return ["NAME" if tag != "O" else "WORD" for tag in tags]


@pytest.mark.parametrize(
    ("change", "metric", "summary"),
    [
        (as_iob1, "f1", "slots (tokens, 5 labels, IOB1)"),
        (as_bioes, "f1", "slots (tokens, 9 labels, BIOES)"),
        (as_types, "f1", "slots (tokens, 3 labels, types)"),
        (as_parts_of_speech, "accuracy", "slots (words, 2 labels, no entities)"),
    ],
)
def test_a_run_learns_tags_of_any_scheme(
    change: Callable[[Sequence[str]], list[str]],
    metric: str,
    summary: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = make_world(tmp_path)
    dice = random.Random(9)
    for split, count in (("train", 60), ("dev", 12)):
        made = [sentence(dice) for _ in range(count)]
        records = [{"words": m["words"], "slots": change(m["slots"])} for m in made]
        write_json_lines(tmp_path / "tags" / f"{split}.jsonl", records)
    output = tmp_path / "run"
    options = world.settings(tmp_path / "tags", epochs=12, lr=3e-3, stride=3, valid_tags=True)
    run.train(options, output)
    assert summary in capsys.readouterr().out
    assert metrics_of(output)["dev"]["slots"][metric] > 0.9
    opened = load_run(output)
    (task,) = opened.tasks
    assert task.overlap == 3
    example = Example("ann in oslo", {}, "", ("ann", "in", "oslo"))
    (found,) = predict(opened.model, [task], prepare([example], opened.encoder.tokenizer, [task]))
    record = task.as_record(found["slots"], example)
    assert record[0]["text"] == "ann"
    assert record[-1]["text"] == "oslo"


def test_cleaning_reads_iob1_files_as_they_are(tmp_path: Path) -> None:
    lines = "\n\n".join(["ann I-PER\njoe B-PER\nin O", "oslo I-LOC\nnow O"] * 6)
    for split in ("train", "dev"):
        (tmp_path / f"{split}.conll").write_text(lines, encoding="utf-8")
    told: list[str] = []
    (data,) = load_data(Settings(data=(str(tmp_path),)), told.append)
    assert data.splits["train"][0].labels["tags"] == ("I-PER", "B-PER", "O")
    assert not any("read as B-" in line for line in told)
    (task,) = build_tasks([data], Settings())
    assert isinstance(task, TokenTagging)
    assert task.scheme.name == "IOB1"
