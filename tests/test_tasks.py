"""The kinds of tasks: the losses are torch's own, batches add up, and words keep their tags.

Evidence: each task's loss against `torch.nn.functional` on padded tensors, with class weights and
label smoothing; gradients of a whole small model, from uneven batches against one; the real word of
SNIPS that has no piece; and an error with file, line and value for each kind of label that cannot
be learnt.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

from minibert import Bert, BertConfig, InputError
from minibert.heads import POOLINGS
from minibert.tokenizer import Tokenizer
from tests.test_data import VOCABULARY, random_examples
from tools.parity import shake
from train.batches import Batch, Item, collate, prepare
from train.data.examples import DataSet, Example
from train.data.read import read_folder
from train.data.reading import Reading
from train.evaluation import evaluate, measure, predict
from train.model import JointModel
from train.settings import Settings
from train.tasks import build_tasks, check_labels, task_from
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.multilabel import MultilabelClassification
from train.tasks.pairs import PairClassification, PairClassificationApart, PairRegression
from train.tasks.records import Prediction
from train.tasks.regression import SentenceRegression
from train.tasks.similarity import PairSimilarity
from train.tasks.tagging import TokenTagging
from train.tasks.targets import TargetTask

MOODS = ("bad", "good", "so")
TAGS = ("O", "B-x", "I-x")
WEIGHTS = (0.5, 3.0, 1.25)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One letter is one piece."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    return Tokenizer.from_folder(folder)


def small_model(tasks: Sequence[Task]) -> JointModel:
    """In eval mode, in double precision, with every parameter away from where it starts."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
    )
    model = JointModel(Bert(config), tasks).double().eval()
    shake(model.bert, 0.1)
    for head in (head for _, head in model.heads.items()):
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


# Losses


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sum_over_count_is_torchs_mean_cross_entropy(
    weights: tuple[float, ...] | None, smoothing: float
) -> None:
    """Also where both are used: torch's weighted mean is over the weights of the targets, smoothed
    or not."""
    task = SentenceClassification("mood", MOODS, class_weights=weights, label_smoothing=smoothing)
    logits = torch.randn(11, 3, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 2, 1, 1, 0, 2, 2, 2, 2])
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    wanted = F.cross_entropy(logits, targets, given, label_smoothing=smoothing)
    parts = [slice(0, 1), slice(1, 8), slice(8, 11)]
    total = sum(task.criterion(logits[part], targets[part]) for part in parts)
    batches: list[Any] = [SimpleNamespace(targets={"mood": targets[part]}) for part in parts]
    count = sum(map(task.count, batches))
    torch.testing.assert_close(total / count, wanted, rtol=1e-12, atol=0)


KINDS: dict[str, Callable[[], Task]] = {
    "sentence": lambda: SentenceClassification("mood", MOODS),
    "sentence by [CLS], weighted and smoothed": lambda: SentenceClassification(
        "mood", MOODS, "cls", WEIGHTS, 0.1
    ),
    "sentence by the pooler": lambda: SentenceClassification("mood", MOODS, "pooler", WEIGHTS),
    "tokens": lambda: TokenTagging("slots", TAGS),
    "regression": lambda: SentenceRegression("stars"),
    "regression by the maximum": lambda: SentenceRegression("stars", "max"),
    "regression, scaled": lambda: SentenceRegression("stars", "mean", 2.5, 1.5, (0.0, 5.0)),
    "similarity": lambda: PairSimilarity("likeness"),
    "similarity, scaled": lambda: PairSimilarity("likeness", "cls", -1.0, 2.0, (-1.0, 1.0)),
    "pair": lambda: PairClassification("relation", MOODS),
    "pair by the pooler, weighted": lambda: PairClassification(
        "relation", MOODS, "pooler", WEIGHTS, 0.1
    ),
    "pair apart": lambda: PairClassificationApart("relation", MOODS),
    "pair apart by the maximum": lambda: PairClassificationApart("relation", MOODS, "max"),
    "pair regression": lambda: PairRegression("nearness", "mean", 2.5, 1.5, (0.0, 5.0)),
    "multilabel": lambda: MultilabelClassification("tones", MOODS),
    "multilabel, weighted": lambda: MultilabelClassification(
        "tones", MOODS, "pooler", (0.1, 0.4, 0.9), WEIGHTS
    ),
}


def varied_examples(count: int) -> list[Example]:
    """Random examples, of which the pairs may have a class and a score too, and the texts several
    classes."""
    draw = random.Random(1)
    result = []
    for one in random_examples(count):
        more: dict[str, Any] = {"tones": frozenset(draw.sample(MOODS, draw.randint(0, 3)))}
        if one.second is not None:
            more = {"relation": draw.choice(MOODS), "nearness": draw.uniform(0, 5)}
        kept = {name: label for name, label in more.items() if draw.random() < 0.7}
        result.append(replace(one, labels={**one.labels, **kept}))
    return result


def mean_loss(
    task: Task, model: JointModel, batches: Sequence[Batch]
) -> tuple[float, dict[str, Tensor]]:
    """The loss and gradients of batches whose summed losses are divided by the count of all of
    them."""
    model.zero_grad()
    count = sum(map(task.count, batches))
    value = 0.0
    for batch in batches:
        if task.count(batch):
            loss = task.loss(model, model(batch), batch) / count
            loss.backward()
            value += loss.item()
    return value, {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("kind", KINDS)
def test_uneven_batches_add_up_to_one(kind: str, tokenizer: Tokenizer) -> None:
    """Batches of one item, of most of them and of three, of which some have no label: the same loss
    and gradient as one batch of all."""
    task = KINDS[kind]()
    model = small_model([task])
    items = [i for i in prepare(varied_examples(40), tokenizer, [task]) if i.parts]
    parts = [items[:1], items[1:-3], items[-3:]]
    labelled = [sum(task.name in item.example.labels for item in part) for part in parts]
    assert len(set(labelled)) > 1
    value, gradients = mean_loss(task, model, [collate(part, [task]) for part in parts])
    wanted, wanted_gradients = mean_loss(task, model, [collate(items, [task])])
    assert value == pytest.approx(wanted, rel=1e-6)
    assert gradients.keys() == wanted_gradients.keys()
    assert len(gradients) > 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-5, atol=1e-7)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-3


def test_the_tagging_loss_is_that_of_a_padded_batch_with_ignored_labels(
    tokenizer: Tokenizer,
) -> None:
    """The usual way, from scratch: logits for (B, S), and -100 on padding, special tokens and all
    later pieces."""
    task = TokenTagging("slots", TAGS)
    model = small_model([task])
    items = [
        item
        for item in prepare(random_examples(40), tokenizer, [task])
        if "slots" in item.example.labels
    ]
    longest = max(len(item.parts[0].ids) for item in items)
    ids = torch.zeros(len(items), longest, dtype=torch.int64)  # (B, S)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, item in enumerate(items):
        tokens = item.parts[0]
        ids[row, : len(tokens.ids)] = torch.tensor(tokens.ids)
        mask[row, : len(tokens.ids)] = 1
        for position, word in enumerate(tokens.words):
            if word is not None and word not in tokens.words[:position]:
                labels[row, position] = TAGS.index(item.example.labels["slots"][word])  # type: ignore[index]
    logits = model.heads["slots"](model.bert(ids, mask))  # (B, S, C)
    wanted = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    value, _ = mean_loss(task, model, [collate(items, [task])])
    assert value == pytest.approx(wanted.item(), rel=1e-9)


def test_similarity_is_the_cosine_of_the_mean_vectors(tokenizer: Tokenizer) -> None:
    task = PairSimilarity("likeness")
    model = small_model([task])
    examples = [
        Example("ab c", {"likeness": 0.5}, "", None, "d"),
        Example("e", {"likeness": -1.0}, "", None, "fg hi j"),
    ]
    items = prepare(examples, tokenizer, [task])
    batch = collate(items, [task])
    found = task.logits(model, model(batch), batch, batch.positions["likeness"]).detach()
    for score, item in zip(found, items, strict=True):
        first, second = (model.bert(torch.tensor([part.ids]))[0].mean(0) for part in item.parts)
        torch.testing.assert_close(score, F.cosine_similarity(first, second, dim=0))
    assert float(task.criterion(found, batch.targets["likeness"])) == pytest.approx(
        float((found[0] - 0.5) ** 2 + (found[1] + 1) ** 2)
    )


# Predictions


def test_words_without_a_piece_or_cut_off_are_o_and_shift_nothing(tokenizer: Tokenizer) -> None:
    short = Tokenizer(tokenizer.backend, max_length=7)
    words = ("ab", "\ufffd\ufffd", "c", "de", "f", "g")
    task = TokenTagging("slots", TAGS)
    with pytest.warns(UserWarning, match="longer than 7"):
        (item,) = prepare([Example(" ".join(words), {}, "", words)], short, [task])
    assert item.parts[0].first_pieces == {0: 1, 2: 3, 3: 4}  # [CLS] a ##b c d ##e [SEP]
    scores = torch.tensor([[0.0, 0.0, 9.0], [0.0, 9.0, 0.0], [9.0, 0.0, 0.0]])
    prediction = task.decode(scores, item)
    assert prediction.label == ("I-x", "O", "B-x", "O", "O", "O")
    assert prediction.probability == pytest.approx(
        (0.99975, 1.0, 0.99975, 0.99975, 1.0, 1.0), abs=1e-5
    )


def test_the_real_word_without_a_piece(shared: Path) -> None:
    """SNIPS has one such word, and the tag after it must stay the tag of its own word."""
    examples = read_folder(shared / "data" / "snips", Reading())["train"]
    vocabulary = Tokenizer.from_folder(shared / "data" / "bert-base-uncased")
    odd = [
        item
        for item in prepare(examples, vocabulary, [TokenTagging("slots", TAGS)])
        if len(item.parts[0].first_pieces) != len(item.example.words or ())
    ]
    assert len(odd) == 1
    words = odd[0].example.words
    assert words is not None
    (place,) = set(range(len(words))) - odd[0].parts[0].first_pieces.keys()
    assert set(words[place]) == {"\ufffd"}
    tags = odd[0].example.labels["slots"]
    assert isinstance(tags, tuple)
    task = TokenTagging("slots", ("O", *sorted({tag for tag in tags if tag != "O"})))
    scores = F.one_hot(torch.tensor(task.targets(odd[0])), len(task.labels)).float()
    assert len(scores) == len(words) - 1
    assert task.decode(scores, odd[0]).label == (*tags[:place], "O", *tags[place + 1 :])


def test_gold_entities_cut_off_count_as_missed_and_are_counted(tokenizer: Tokenizer) -> None:
    short = Tokenizer(tokenizer.backend, max_length=6)
    task = TokenTagging("slots", TAGS)
    tags = [
        ("B-x", "O", "O", "O", "B-x", "I-x"),  # one kept, one cut off
        ("O", "O", "O", "B-x", "I-x", "O"),  # its beginning is kept, its end is not
        ("O", "O", "B-x", "I-x", "O", "O"),  # just fits
        ("B-x", "B-x", "O", "O"),  # fits
    ]
    examples = [Example("", {"slots": t}, "", tuple("abcdef"[: len(t)])) for t in tags]
    with pytest.warns(UserWarning, match="3 of 4 texts are longer"):
        items = prepare(examples, short, [task])
    found = []
    # a perfect tagger: right wherever it sees the word
    for item, gold in zip(items, tags, strict=True):
        seen = [TAGS.index(gold[word]) for word in item.parts[0].first_pieces]
        found.append(task.decode(F.one_hot(torch.tensor(seen), 3).float() * 9, item))
    assert found[1].label == ("O", "O", "O", "B-x", "O", "O")
    metrics = task.measure(items, found)
    assert metrics == {
        "f1": 2 * 4 / (5 + 6),
        "precision": 4 / 5,
        "recall": 4 / 6,
        "entities_cut_off": 2,
    }


def test_sentence_predictions_carry_their_probability(tokenizer: Tokenizer) -> None:
    (item,) = prepare([Example("a", {}, "")], tokenizer, [])
    prediction = SentenceClassification("mood", MOODS).decode(torch.tensor([[0.0, 2.0, 1.0]]), item)
    assert prediction.label == "good"
    assert prediction.probability == pytest.approx(0.665241, abs=1e-6)
    assert prediction.scores == pytest.approx(
        {"bad": 0.090031, "good": 0.665241, "so": 0.244728}, abs=1e-6
    )
    assert SentenceRegression("stars").decode(torch.tensor([2.5]), item) == Prediction(2.5)
    scaled = SentenceRegression("stars", offset=10, scale=4).decode(torch.tensor([2.5]), item)
    assert scaled == Prediction(20)


def test_predictions_of_mixed_items_come_in_their_order(tokenizer: Tokenizer) -> None:
    """Each task answers for the items that have what it looks at, and as it does for one item
    alone."""
    tasks = [
        kind()
        for kind in (KINDS["sentence"], KINDS["tokens"], KINDS["regression"], KINDS["similarity"])
    ]
    model = small_model(tasks)
    examples = [*random_examples(60), Example("\u200b", {"slots": ("B-x",)}, "", ("\u200b",))]
    items = prepare(examples, tokenizer, tasks, first_number=100)
    model.train()
    found = predict(model, tasks, items)
    assert model.training
    for item, predictions in zip(items, found, strict=True):
        names = {"mood", "stars"}
        names |= {"slots"} if item.example.words is not None else set()
        names |= {"likeness"} if item.example.second is not None else set()
        assert predictions.keys() == names
        (alone,) = predict(model, tasks, [item])
        for name, prediction in predictions.items():
            if isinstance(prediction.label, float):
                assert prediction.label == pytest.approx(alone[name].label, rel=1e-6)
            else:
                assert prediction.label == alone[name].label
    assert found[-1]["slots"] == Prediction(("O",), (1.0,))
    # nothing is left out, so it counts as missed
    assert measure(tasks, items[-1:], found[-1:])["slots"] == {
        "f1": 0.0,
        "precision": 0.0,
        "recall": 0.0,
        "entities_cut_off": 0,
    }


def test_predicting_takes_each_item_once_and_keeps_to_its_budget(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [kind() for kind in (KINDS["sentence"], KINDS["similarity"])]
    model = small_model(tasks)
    items = prepare(random_examples(200), tokenizer, tasks)
    found: list[Batch] = []

    def noting(batch: Batch) -> Tensor:
        found.append(batch)
        return model(batch)

    monkeypatch.setattr("train.evaluation.BATCH_TOKENS", 60)
    predict(model, tasks, items, forward=noting)
    numbers = Counter(item.number for batch in found for item in batch.items)
    assert numbers == Counter(range(200))
    sizes = [batch.input_ids.numel() for batch in found]
    assert all(
        size <= 60 or len(batch.items) == 1 for size, batch in zip(sizes, found, strict=True)
    )
    assert len(found) <= 2 * sum(sizes) / 60
    assert predict(model, tasks, []) == []


def test_predicting_uses_no_dropout_and_leaves_the_mode_as_it_was(tokenizer: Tokenizer) -> None:
    tasks = [KINDS["sentence"]()]
    model = small_model(tasks)
    items = prepare(random_examples(10), tokenizer, tasks)
    evaluated = predict(model, tasks, items)
    assert not model.training
    model.train()
    assert predict(model, tasks, items) == evaluated
    assert model.training


def test_metrics_are_over_the_items_with_the_tasks_label(tokenizer: Tokenizer) -> None:
    tasks = [KINDS["sentence"](), KINDS["tokens"]()]
    examples = [
        Example("a b", {"mood": "good", "slots": ("B-x", "O")}, "", ("a", "b")),
        Example("a b", {"mood": "bad", "slots": ("O", "O")}, "", ("a", "b")),
        Example("a", {"mood": "so"}, ""),
        Example("a", {"slots": ("B-x",), "else": "y"}, "", ("a",)),
        Example("a", {"mood": "so", "slots": ("O",), "stars": 0.5}, "", ("a",)),
    ]
    items = prepare(examples, tokenizer, tasks)
    found = [
        {"mood": Prediction("good"), "slots": Prediction(("B-x", "O"))},
        {"mood": Prediction("bad"), "slots": Prediction(("B-x", "O"))},
        {"mood": Prediction("bad"), "slots": Prediction(("O",))},
        {"mood": Prediction("bad"), "slots": Prediction(("O",))},
        {"mood": Prediction("so"), "slots": Prediction(("O",)), "stars": Prediction(0.4)},
    ]
    metrics = measure([*tasks, SentenceRegression("stars")], items, found)
    assert isinstance(mood := metrics["mood"], dict)
    assert isinstance(slots := metrics["slots"], dict)
    assert mood["accuracy"] == 3 / 4
    assert (slots["precision"], slots["recall"], slots["f1"]) == (1 / 2, 1 / 2, 1 / 2)
    # of the three with both labels; a score, never exactly right, is not asked for
    assert metrics["frame"] == 2 / 3
    assert "frame" not in measure(tasks, items[2:4], found[2:4])


@pytest.mark.parametrize("kind", ["sentence", "pair", "pair apart"])
def test_a_label_that_train_lacks_counts_as_wrong(kind: str, tokenizer: Tokenizer) -> None:
    """It has no target, and so no part in the loss."""
    task = KINDS[kind]()
    model = small_model([task])
    second = "b c" if task.reads_pairs else None
    known = [Example("a b", {task.name: mood}, "", second=second) for mood in MOODS]
    unknown = Example("a b", {task.name: "odd"}, "", second=second)
    check_labels([unknown], [task])
    items = prepare([*known, unknown, unknown], tokenizer, [task])
    found, predictions = evaluate(model, [task], items)
    expected, _ = evaluate(model, [task], items[:3])
    assert isinstance(measured := found[task.name], dict)
    assert isinstance(of_known := expected[task.name], dict)
    assert measured["loss"] == pytest.approx(of_known["loss"])
    assert measured["accuracy"] == pytest.approx(of_known["accuracy"] * 3 / 5)
    assert evaluate(model, [task], items[3:])[0] == {
        task.name: {"accuracy": 0.0, "macro_f1": 0.0, "macro_recall": 0.0}
    }
    predicted = [prediction[task.name] for prediction in predictions]
    assert task.per_label(items, predicted)["odd"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 2,
    }
    assert task.error("odd", predicted[-1]) == 1


def test_figures_and_mistakes_of_classes(tokenizer: Tokenizer) -> None:
    task = KINDS["sentence"]()
    items = prepare([Example("a", {"mood": m}, "") for m in ("so", "so", "bad")], tokenizer, [task])
    found = [
        Prediction("so", 0.5, {"bad": 0.2, "good": 0.3, "so": 0.5}),
        Prediction("bad", 0.6, {"bad": 0.6, "good": 0.3, "so": 0.1}),
        Prediction("bad", 0.9, {"bad": 0.9, "good": 0.1, "so": 0.0}),
    ]
    assert task.per_label(items, found) == {
        "bad": {"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "support": 1},
        "so": {"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "support": 2},
    }
    assert task.confusions(items, found) == [("so", "so"), ("so", "bad"), ("bad", "bad")]
    assert task.confidences(items, found) == [(0.5, True), (0.6, False), (0.9, True)]
    gold = [item.example.labels["mood"] for item in items]
    errors = [task.error(label, one) for label, one in zip(gold, found, strict=True)]
    assert errors == [0, 0.9, 0]


@pytest.mark.parametrize(
    "kind", ["sentence", "sentence by the pooler", "regression, scaled", "multilabel, weighted"]
)
def test_a_text_in_windows_has_the_mean_of_their_logits(kind: str, tokenizer: Tokenizer) -> None:
    """Each window as a text of its own gives the logits; texts of one, two and four windows, in one
    batch or in several."""
    task = KINDS[kind]()
    assert task.takes_windows
    assert isinstance(task, TargetTask)
    model = small_model([task])
    short = Tokenizer(tokenizer.backend, max_length=6)
    label = {"mood": "so", "stars": 4.0, "tones": frozenset(["so"])}[task.name]
    texts = ["a b", "a b c d e f", "g f e d c b a g f e"]
    task.overlap = 2
    examples = [Example(text, {task.name: label}, "") for text in texts]
    items = prepare(examples, short, [task])
    assert [len(item.parts) for item in items] == [1, 2, 4]
    batch = collate(items, [task])
    logits = task.logits(model, model(batch), batch, batch.positions[task.name])

    task.overlap = None
    windows = [["a b"], ["a b c d", "c d e f"], ["g f e d", "e d c b", "c b a g", "a g f e"]]
    for found, own in zip(logits, windows, strict=True):
        alone = collate(
            prepare([Example(text, {task.name: label}, "") for text in own], short, [task]), [task]
        )
        expected = task.logits(model, model(alone), alone, alone.positions[task.name]).mean(0)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    task.overlap = 2
    value, gradients = mean_loss(task, model, [collate([item], [task]) for item in items])
    wanted, wanted_gradients = mean_loss(task, model, [batch])
    assert value == pytest.approx(wanted, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-6, atol=1e-7)
    assert all(found[task.name].cut == 0 for found in predict(model, [task], items))


def test_predictions_say_how_much_was_cut_off(tokenizer: Tokenizer) -> None:
    task = KINDS["sentence"]()
    model = small_model([task])
    short = Tokenizer(tokenizer.backend, max_length=6)
    examples = [Example(text, {}, "") for text in ("a b", "a b c d e f g")]
    with pytest.warns(UserWarning, match="1 of 2 texts"):
        items = prepare(examples, short, [task])
    assert [found["mood"].cut for found in predict(model, [task], items)] == [0, 3]


# Which tasks the data has


def example(where: str = "", second: str | None = None, **labels: Any) -> Example:
    words = next(
        (("w",) * len(label) for label in labels.values() if isinstance(label, tuple)), None
    )
    return Example("w", labels, where, words, second)


def data(train: Sequence[Example], dev: Sequence[Example] = (), name: str = "source") -> DataSet:
    return DataSet(name, {"train": train, "dev": dev})


def tasks_of(*sets: DataSet, **settings: Any) -> list[Task]:
    return build_tasks(sets, Settings(**settings))


def test_the_tasks_are_the_labels_of_all_sources() -> None:
    tasks = tasks_of(
        data(
            [
                example(mood="so", slots=("B-y", "I-y", "O")),
                example(mood="bad"),
                example(slots=("B-a-b", "O")),
            ]
        ),
        data(
            [example(second="x", likeness=0.5), example(stars=3.0), example(mood="good")],
            name="other",
        ),
    )
    assert [(task.kind, task.name, task.labels) for task in tasks] == [
        # one name is one task, and its labels are taken together
        ("sentence", "mood", ("bad", "good", "so")),
        ("tokens", "slots", ("O", "B-a-b", "I-a-b", "B-y", "I-y")),
        ("similarity", "likeness", ()),
        ("regression", "stars", ()),
    ]
    assert [task.metrics[0].name for task in tasks] == ["accuracy", "f1", "spearman", "spearman"]


def test_settings_choose_among_the_tasks() -> None:
    source = data([example(mood="so", tone="a", pos=("NN", "O"))], [example(tone="never seen")])
    # what else there is, is not looked at
    assert [task.name for task in tasks_of(source, tasks=["mood"])] == ["mood"]
    with pytest.raises(InputError, match="tasks = moot: the data's tasks are mood, tone, pos"):
        tasks_of(source, tasks=["mood", "moot"])


ERRORS: list[tuple[list[Example], list[Example], str]] = [
    ([example()], [], "the training data has texts, but no labels"),
    (
        [example("a, line 1", x="a"), example("b, line 2", x=0.5)],
        [],
        "the task x has labels of several kinds: 'a' (a, line 1), but 0.5 (b, line 2)",
    ),
    (
        [example("a, line 1", x="a"), example("b, line 2", x=("O",))],
        [],
        "the task x has labels of several kinds: 'a' (a, line 1), but ('O',) (b, line 2)",
    ),
    (
        [example("a, line 1", x=0.5), example("b, line 2", "s", x=0.5)],
        [],
        "the task x has labels of several kinds: 0.5 (a, line 1), but 0.5 (b, line 2)",
    ),
    (
        [example(x=("O", "B-y")), example("a, line 2", x=("O", "NN"))],
        [],
        "a, line 2: the x tag 'NN' is not BIO: O, B-type or I-type. Convert the tags, or leave "
        "the task out",
    ),
    ([example("a, line 1", x=("B-",))], [], "a, line 1: the x tag 'B-' is not BIO"),
    ([example("a, line 1", x=("o", "I-a"))], [], "a, line 1: the x tag 'o' is not BIO"),
    (
        [example("a, line 1", "s", x=frozenset("a"))],
        [],
        "the task x: no kind of task learns frozenset({'a'}) (a, line 1) of a pair",
    ),
    ([example(x=frozenset())], [], "the task x: none of the training texts has a label"),
    ([example(x=1e300), example(x=-1e300)], [], "the task x has scores too large to compute with"),
    (
        [example(x=("B-a",))],
        [example("d, line 3", x=("O", "NN"))],
        "d, line 3: the x tag 'NN' is not BIO, as the tags of the training data are",
    ),
    (
        [example(x="a")],
        [example("d, line 3", x=1.0)],
        "d, line 3: x = 1.0 of a sentence is of another kind than in the",
    ),
    (
        [example(x="a")],
        [example("d, line 3", x=("O",))],
        "d, line 3: x = ('O',) of a sentence is of another kind",
    ),
    (
        [example(x=1.0)],
        [example("d, line 3", x="a")],
        "d, line 3: x = 'a' of a sentence is of another kind",
    ),
    (
        [example(x=("O",))],
        [example("d, line 3", x="O")],
        "d, line 3: x = 'O' of a sentence is of another kind",
    ),
    (
        [example(x=("O",))],
        [example("d, line 3", x=1.0)],
        "d, line 3: x = 1.0 of a sentence is of another kind",
    ),
    (
        [example("", "s", x=0.1)],
        [example("d, line 3", x=0.1)],
        "d, line 3: x = 0.1 of a sentence is of another kind",
    ),
    (
        [example(x=0.1)],
        [example("d, line 3", "s", x=0.1)],
        "d, line 3: x = 0.1 of a pair is of another kind",
    ),
    (
        [example(x="a")],
        [example("d, line 3", "s", x="a")],
        "d, line 3: x = 'a' of a pair is of another kind",
    ),
    ([Example("w", {"type": "a"}, "")], [], "a task cannot be named 'type': rename it in the data"),
    (
        [Example("w", {"frame": "a"}, "")],
        [],
        "a task cannot be named 'frame': rename it in the data",
    ),
]


@pytest.mark.parametrize(("train", "dev", "message"), ERRORS)
def test_labels_that_cannot_be_learnt(
    train: list[Example], dev: list[Example], message: str
) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        tasks_of(data(train, dev))


def test_a_name_that_is_refused_does_not_trouble_the_other_tasks() -> None:
    """... and every name that is not refused can be a head."""
    source = data(
        [Example("w", {"type": "a", "a.b": "b", "mood": "c", "my label": "d", "stars/5": 0.5}, "")]
    )
    names = ["a.b", "mood", "my label", "stars/5"]
    tasks = tasks_of(source, tasks=names)
    assert [name for name, _ in small_model(tasks).heads.items()] == names


def test_an_i_without_its_b_in_train_is_still_a_label() -> None:
    """Train has the one, dev the other: both prefixes of a type are labels."""
    (task,) = tasks_of(data([example(x=("B-a",))], [example(x=("B-a", "I-a"))]))
    assert task.labels == ("O", "B-a", "I-a")


def test_class_weights() -> None:
    letters = "aaaaaabbbc"
    letter_task = data([example(x=letter) for letter in letters])
    (task,) = tasks_of(letter_task, class_weights="x=auto")
    assert isinstance(task, SentenceClassification)
    balanced = compute_class_weight("balanced", classes=np.array(list("abc")), y=list(letters))
    assert task.class_weights == pytest.approx(balanced)
    (task,) = tasks_of(letter_task, class_weights="x=b: 2; a:0.5")
    assert isinstance(task, SentenceClassification)
    assert task.class_weights == (0.5, 2.0, 1.0)
    source = data([example(x="a"), example(x="a"), example(x="b", y="c", z=0.5)])
    found = tasks_of(source, class_weights="x=auto, y=c:3", label_smoothing=0.1)
    assert [task.class_weights for task in found if isinstance(task, SentenceClassification)] == [
        (0.75, 1.5),
        (3.0,),
    ]
    assert [task.label_smoothing for task in found if isinstance(task, SentenceClassification)] == [
        0.1,
        0.1,
    ]
    # of a task that is left out: no matter
    assert tasks_of(source, class_weights="x=auto, y=c:3", tasks=["y"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": "w=auto"}, "class_weights: there is no task 'w'; the tasks are x, z, s"),
        ({"class_weights": "z=auto"}, "class_weights: the task z has no classes of sentences"),
        ({"class_weights": "s=auto"}, "class_weights: the task s has no classes of sentences"),
        ({"class_weights": "x=c:1"}, "class_weights: x has no label 'c'; it has a, b"),
        ({"class_weights": "x=a:much"}, "class_weights of x: 'much' is no number of at least 0"),
        ({"class_weights": "x=a:-1"}, "class_weights of x: '-1' is no number of at least 0"),
        ({"class_weights": "x"}, "class_weights = 'x': 'x' should read name=value, each name once"),
        ({"pooling": "w=cls"}, "pooling = 'w=cls': there is no task 'w'; the tasks are x, z, s"),
        (
            {"pooling": "middle"},
            f"pooling of x: 'middle' is not one of {', '.join(POOLINGS)}, pooler",
        ),
        (
            {"pooling": "cls, max, x=mean"},
            "pooling = 'cls, max, x=mean': both 'cls' and 'max' are for all tasks",
        ),
        (
            {"pooling": "x=cls, x=max"},
            "pooling = 'x=cls,x=max': 'x=max' should read name=value, each name once",
        ),
    ],
)
def test_settings_that_the_tasks_cannot_have(settings: dict[str, Any], message: str) -> None:
    source = data([example(x="a", z=0.5, s=("O",)), example(x="b")])
    with pytest.raises(InputError, match="^" + re.escape(message)):
        tasks_of(source, **settings)


def test_pooling_by_task() -> None:
    source = data([example(x="a", y="b", z=0.5, s=("B-a",))])
    poolings = {
        t.name: getattr(t, "pooling", None)
        for t in tasks_of(source, pooling="max, y=cls, z=pooler")
    }
    assert poolings == {"x": "max", "y": "cls", "z": "pooler", "s": None}
    assert [t.uses_pooler for t in tasks_of(source, pooling="max, y=cls, z=pooler")] == [
        False,
        False,
        True,
        False,
    ]
    with pytest.raises(InputError, match="pooling of x: 'pooler' is not one of cls, max, mean"):
        tasks_of(data([example("", "s", x=0.5)]), pooling="pooler")


def test_a_model_without_a_pooler_cannot_pool_by_it() -> None:
    bert = Bert(
        BertConfig(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    )
    bert.pooler = None
    JointModel(bert, [KINDS["sentence"]()])
    with pytest.raises(InputError, match="this model's files have none"):
        JointModel(bert, [KINDS["sentence by the pooler"]()])


def test_labels_of_other_tasks_are_not_checked() -> None:
    check_labels([example(other="a", mood="good")], [KINDS["sentence"]()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_survives_its_description(kind: str, tokenizer: Tokenizer) -> None:
    task = KINDS[kind]()
    again = task_from(json.loads(json.dumps(task.describe())))
    assert type(again) is type(task)
    assert again.describe() == task.describe()
    assert again.uses_pooler == task.uses_pooler
    items: list[Item] = prepare(varied_examples(9), tokenizer, [task])
    model = small_model([task])
    assert predict(model, [again], items) == predict(model, [task], items)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_measures_the_metrics_that_it_names(kind: str, tokenizer: Tokenizer) -> None:
    """`monitor` is checked by the names before anything is trained."""
    task = KINDS[kind]()
    items = prepare(varied_examples(30), tokenizer, [task])
    labelled = [item for item in items if task.name in item.example.labels]
    perfect = [Prediction(item.example.labels[task.name]) for item in labelled]
    measured = task.measure(labelled, perfect)
    assert sorted(measured) == sorted(metric.name for metric in task.metrics)
    assert measured[task.metrics[0].name] == pytest.approx(1)


def test_an_unknown_kind_of_task() -> None:
    with pytest.raises(ValueError, match="there is no kind of task 'poem'"):
        task_from({"kind": "poem", "name": "x", "labels": []})
