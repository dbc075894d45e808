"""The heads for texts and pairs against transformers' BertForSequenceClassification.

Evidence: a small BERT with random weights and a head of each kind are exported as a run exports
them. transformers opens the files, pads the same token ids, and has its own loss for each problem
type. Logits, losses and the gradients of all parameters agree within float32's rounding; what whole
runs export gives the predictions that the runs give, from the texts on.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minibert.encoder import SentenceEncoder
from minibert.formats.names import checkpoint_name
from tests.training import (
    FILLERS,
    World,
    pair,
    scored,
    sentence,
    write_model,
    write_splits,
)
from train.batches import Item, collate, prepare
from train.data.examples import Example
from train.evaluation import predict
from train.model import JointModel
from train.run import train
from train.saved import load_run, save_for_transformers
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.multilabel import MultilabelClassification
from train.tasks.pairs import PairClassification, PairClassificationApart, PairRegression
from train.tasks.regression import SentenceRegression

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = ("bad", "good", "so")
BOUND = 1e-5
RUN_TASKS = ("intent", "score", "tones", "relation", "likeness")

DRAW: dict[type[Task], Callable[[random.Random], Any]] = {
    SentenceClassification: lambda dice: dice.choice(LABELS),
    PairClassification: lambda dice: dice.choice(LABELS),
    MultilabelClassification: lambda dice: frozenset(dice.sample(LABELS, dice.randint(0, 3))),
    SentenceRegression: lambda dice: dice.uniform(-2, 2),
    PairRegression: lambda dice: dice.uniform(-2, 2),
}
# As transformers takes them.
THEIR_LABELS: dict[type[Task], Callable[[list[Any]], Tensor]] = {
    SentenceClassification: lambda gold: torch.tensor([LABELS.index(g) for g in gold]),
    PairClassification: lambda gold: torch.tensor([LABELS.index(g) for g in gold]),
    MultilabelClassification: lambda gold: torch.tensor(
        [[float(label in g) for label in LABELS] for g in gold]
    ),
    SentenceRegression: torch.tensor,
    PairRegression: torch.tensor,
}
TASKS: dict[str, Task] = {
    "single_label": SentenceClassification("task", LABELS, "pooler"),
    "single_label, pairs": PairClassification("task", LABELS, "pooler"),
    "multi_label_classification": MultilabelClassification("task", LABELS, "pooler"),
    "regression": SentenceRegression("task", "pooler"),
    "regression, pairs": PairRegression("task", "pooler"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with a pooler."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny-bert", pooler=True)


def items_for(task: Task, encoder: SentenceEncoder) -> list[Item]:
    """Ten texts or pairs of different lengths, two of them longer than the model reads."""
    dice = random.Random(0)

    def text(length: int) -> str:
        return " ".join(dice.choices(FILLERS, k=length))

    lengths = [1, 9, 40, 5, 5, 3, 17, 8, 60, 2]
    examples = [
        Example(
            text(length),
            {"task": DRAW[type(task)](dice)},
            "",
            second=text(dice.randint(1, 20)) if task.reads_pairs else None,
        )
        for length in lengths
    ]
    with pytest.warns(UserWarning, match="longer than"):
        return prepare(examples, encoder.tokenizer, [task])


def padded(items: list[Item]) -> dict[str, Tensor]:
    parts = [item.parts[0] for item in items]
    return {
        "input_ids": pad_sequence([torch.tensor(p.ids) for p in parts], batch_first=True),
        "token_type_ids": pad_sequence([torch.tensor(p.type_ids) for p in parts], batch_first=True),
        "attention_mask": pad_sequence([torch.ones(len(p.ids)) for p in parts], batch_first=True),
    }


@pytest.mark.parametrize("name", TASKS)
def test_logits_loss_and_gradients(name: str, folder: Path, tmp_path: Path) -> None:
    task = TASKS[name]
    encoder = SentenceEncoder.from_pretrained(folder, pooling="mean")
    model = JointModel(encoder.bert, [task]).eval()
    for parameter in model.heads.parameters():
        nn.init.normal_(parameter, std=2.0)
    save_for_transformers(tmp_path, encoder.tokenizer, model, [task], {}, "")
    theirs = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "transformers" / "task"
    ).eval()
    assert name.startswith(theirs.config.problem_type or "single_label")

    items = items_for(task, encoder)
    batch = collate(items, [task])
    assert (batch.token_type_ids is not None) == task.reads_pairs
    states = model(batch)
    loss = task.loss(model, states, batch) / task.count(batch)
    loss.backward()
    gold = THEIR_LABELS[type(task)]([item.example.labels["task"] for item in items])
    output = theirs(**padded(items), labels=gold)
    output.loss.backward()

    found = task.logits(model, states, batch, batch.positions["task"])  # type: ignore[attr-defined]
    logits = found.reshape(len(items), -1)
    assert float(logits.detach().std()) > 0.1
    torch.testing.assert_close(logits, output.logits, rtol=0, atol=BOUND)
    torch.testing.assert_close(loss, output.loss, rtol=0, atol=BOUND)
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    ours = {checkpoint_name(f"bert.{name}"): p.grad for name, p in model.bert.named_parameters()}
    ours |= {name: p.grad for name, p in model.heads["task"].named_parameters()}
    assert ours.keys() == wanted.keys()
    for parameter, gradient in ours.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, wanted[parameter], rtol=0, atol=BOUND, msg=parameter)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A short run on texts, scores far from 0, several labels and pairs, by the pooler."""
    made = tmp_path_factory.mktemp("run")

    def far(dice: random.Random) -> dict[str, Any]:
        record = scored(dice)
        tones = [label for label in LABELS if dice.random() < 0.4]
        return record | {"score": 90000.5 + 50000 * record["score"], "tones": tones}

    def related(dice: random.Random) -> dict[str, Any]:
        record = pair(dice)
        cosine = record.pop("cosine")
        return record | {"relation": "same" if cosine > 0.5 else "other", "likeness": 5 * cosine}

    sets = [
        write_splits(made / name, make, 26, 8)
        for name, make in (("texts", sentence), ("scores", far), ("pairs", related))
    ]
    world = World(folder, *sets)
    settings = world.settings(*sets, pooling="pooler", pairs="together", tasks=RUN_TASKS)
    train(settings, made / "run")
    return made / "run"


@pytest.mark.parametrize("task", RUN_TASKS)
def test_what_a_run_exports_predicts_what_the_run_predicts(task: str, run: Path) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        run / "transformers" / task
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "transformers" / task)
    text, second = "play some songs in new york", "sing now"
    opened = load_run(run)
    examples = [Example(text, {}, "", second=second if task in ("relation", "likeness") else None)]
    (found,) = predict(
        opened.model, opened.tasks, prepare(examples, opened.encoder.tokenizer, opened.tasks)
    )
    pairs = [second] if task in ("relation", "likeness") else None
    with torch.no_grad():
        (logits,) = theirs(**tokenizer([text], pairs, return_tensors="pt")).logits
    prediction = found[task]
    if prediction.scores is None:
        assert float(logits) == pytest.approx(prediction.label, rel=1e-5)
        lowest, highest = (90000.5, 540000.5) if task == "score" else (0, 5)
        assert lowest - 1e5 < float(logits) < highest + 1e5  # in the data's own unit
    else:
        names = [theirs.config.id2label[i] for i in range(len(logits))]
        several = theirs.config.problem_type == "multi_label_classification"
        probabilities = logits.sigmoid() if several else logits.softmax(-1)
        expected = dict(zip(names, probabilities.tolist(), strict=True))
        assert several == (task == "tones")
        assert prediction.scores == pytest.approx(expected, abs=1e-5)
        if several:
            assert prediction.label == {name for name, p in expected.items() if p >= 0.5}
        else:
            assert prediction.label == max(expected, key=expected.__getitem__)


def test_classes_from_two_vectors_are_as_in_sentence_transformers(folder: Path) -> None:
    """Its SoftmaxLoss, of the same vectors and with the same layer."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    task = PairClassificationApart("task", LABELS)
    encoder = SentenceEncoder.from_pretrained(folder, pooling="mean")
    model = JointModel(encoder.bert, [task]).eval()
    dice = random.Random(0)
    texts = [[" ".join(sentence(dice)["words"]) for _ in range(2)] for _ in range(7)]
    labels = [dice.choice(LABELS) for _ in texts]
    examples = [
        Example(first, {"task": label}, "", second=second)
        for (first, second), label in zip(texts, labels, strict=True)
    ]
    batch = collate(prepare(examples, encoder.tokenizer, [task]), [task])
    loss = task.loss(model, model(batch), batch) / task.count(batch)

    encoder.save_pretrained(folder.parent / "vectors")
    theirs = sentence_transformers.SentenceTransformer(str(folder.parent / "vectors"), device="cpu")
    softmax = losses.SoftmaxLoss(theirs.eval(), 24, len(LABELS))
    softmax.classifier.load_state_dict(model.heads["task"].classifier.state_dict())  # type: ignore
    features = [theirs.tokenize([pair[side] for pair in texts]) for side in (0, 1)]
    wanted = softmax(features, torch.tensor([LABELS.index(label) for label in labels]))
    torch.testing.assert_close(loss, wanted, rtol=0, atol=BOUND)
