"""Multiple choice: each text with each of its choices, one logit for each, whichever number."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from minibert import Bert
from minibert.files import InputError
from minibert.tokenizer import Tokenizer
from tests.training import TRIGGERS, sentence, write_model
from train.batches import Item, collate, prepare
from train.data.examples import DataSet, Example
from train.evaluation import measure, predict
from train.model import JointModel
from train.optimizer import adamw
from train.settings import Settings
from train.setup import assemble
from train.step import forward_backward
from train.tasks import build_tasks, check_labels, task_from
from train.tasks.multiple_choice import MultipleChoice
from train.tasks.records import Prediction

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny", pooler=True)


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def example(text: str, choices: Sequence[str], label: str | None, where: str = "") -> Example:
    labels = {} if label is None else {"next": label}
    return Example(text, labels, where, choices=tuple(choices))


def uneven() -> list[Example]:
    """Texts with two to five choices."""
    dice = random.Random(2)
    made = []
    for count in (3, 2, 5, 4):
        choices = [" ".join(sentence(dice)["words"]) for _ in range(count)]
        made.append(example("my days", choices, str(dice.randrange(count))))
    return made


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_each_text_has_the_softmax_of_its_own_choices(
    folder: Path, tokenizer: Tokenizer, pooling: str
) -> None:
    """However many others of the batch have: loss and probabilities are those of each alone."""
    task = MultipleChoice("next", pooling)
    torch.manual_seed(3)
    model = JointModel(Bert.from_pretrained(folder), [task]).eval()
    items = prepare(uneven(), tokenizer, [task])
    assert [len(item.parts) for item in items] == [3, 2, 5, 4]
    wanted = []
    losses = []
    for item in items:
        logits = []
        for tokens in item.parts:
            ids, types = torch.tensor([tokens.ids]), torch.tensor([tokens.type_ids])
            hidden = model.bert(ids, token_type_ids=types)[0]
            pooled = hidden.mean(0) if pooling == "mean" else hidden[0]
            if pooling == "pooler":
                assert model.bert.pooler is not None
                pooled = model.bert.pooler(hidden[:1])[0]
            logits.append(model.heads["next"].classifier(pooled)[0])
        of_text = torch.stack(logits)
        wanted.append(of_text.softmax(0).tolist())
        right = torch.tensor(int(item.example.labels["next"]))
        losses.append(F.cross_entropy(of_text, right).item())
    batch = collate(items, [task])
    found = task.loss(model, model(batch), batch)
    assert task.count(batch) == 4
    assert found.item() == pytest.approx(math.fsum(losses), rel=1e-5)
    for item, prediction, own in zip(items, predict(model, [task], items), wanted, strict=True):
        said = prediction["next"]
        assert said.scores is not None
        assert list(said.scores) == [str(number) for number in range(len(own))]
        assert list(said.scores.values()) == pytest.approx(own, abs=1e-5)
        assert said.label == str(own.index(max(own)))
        record = task.as_record(said, item.example)
        assert record["choice"] == (item.example.choices or ())[int(said.label)]
        assert record["probability"] == pytest.approx(max(own), abs=1e-5)


def test_equal_choices_are_read_twice(tokenizer: Tokenizer) -> None:
    task = MultipleChoice("next")
    (item,) = prepare([example("my days", ["oslo", "oslo"], "1")], tokenizer, [task])
    assert len(item.tokens_of("next")) == 2
    assert item.parts[0].type_ids == [0, 0, 0, 0, 0, 1, 1]  # [CLS] my day ##s [SEP] oslo [SEP]


@pytest.mark.parametrize(
    ("choices", "label", "message"),
    [
        (("a", "b"), "2", "line 1: next = '2' is no number of a choice, 0 to 1"),
        (("a", "b"), "-1", "line 1: next = '-1' is no number of a choice, 0 to 1"),
        (("a", "b"), "b", "line 1: next = 'b' is no number of a choice, 0 to 1"),
        (("a",), "0", "line 1: 1 choices leave nothing to choose"),
    ],
)
def test_a_label_must_be_the_number_of_a_choice(
    choices: tuple[str, ...], label: str, message: str
) -> None:
    wrong = example("text", choices, label, "line 1")
    with pytest.raises(InputError, match=message):
        build_tasks([DataSet("data", {"train": [wrong]})], Settings())
    right = example("text", ("a", "b", "c"), "2")
    (task,) = build_tasks([DataSet("data", {"train": [right]})], Settings())
    assert task.summary() == "next (choice)"
    with pytest.raises(InputError, match=message):
        check_labels([wrong], [task])


def test_what_is_said_of_a_prediction(tokenizer: Tokenizer) -> None:
    task = MultipleChoice("next")
    items: list[Item] = prepare(uneven()[:2], tokenizer, [task])
    gold = [item.example.labels["next"] for item in items]
    others = ["0" if right != "0" else "1" for right in gold]
    right = Prediction(gold[0], 0.6, {gold[0]: 0.6, others[0]: 0.4})
    wrong = Prediction(others[1], 0.7, {gold[1]: 0.3, others[1]: 0.7})
    assert task.measure(items, [right, wrong]) == {"accuracy": 1 / 2}
    assert measure([task], items, [{"next": right}, {"next": wrong}]) == {"next": {"accuracy": 0.5}}
    assert task.confidences(items, [right, wrong]) == [(0.6, True), (0.7, False)]
    assert task.error(gold[0], right) == 0
    assert task.error(gold[1], wrong) == pytest.approx(0.7)
    choice = (items[0].example.choices or ())[int(gold[0])]
    assert task.as_text(right, items[0].example) == f"{gold[0]}: {choice} (0.60)"
    assert task.beside_gold(gold[1], wrong) == {
        "gold": gold[1],
        "predicted": others[1],
        "probability": 0.7,
    }
    again = task_from(json.loads(json.dumps(MultipleChoice("next", "cls").describe())))
    assert isinstance(again, MultipleChoice)
    assert again.pooling == "cls"


def test_it_is_learnt_beside_other_tasks(folder: Path) -> None:
    """Which choice has a word of the text's intent; and the tags of other sentences, which no
    choice is read of."""
    dice = random.Random(4)
    made: list[Example] = []
    for i in range(16):
        intents = dice.sample(sorted(TRIGGERS), 2)
        choices = [f"now {dice.choice(TRIGGERS[intent])} the" for intent in intents]
        right = dice.randrange(2)
        made.append(example(dice.choice(TRIGGERS[intents[right]]), choices, str(right), f"{i}"))
    records: list[dict[str, Any]] = [sentence(dice) for _ in range(10)]
    tagged = [
        Example(" ".join(r["words"]), {"slots": tuple(r["slots"])}, "", tuple(r["words"]))
        for r in records
    ]
    sets = [DataSet("choices", {"train": made, "dev": made}), DataSet("tags", {"train": tagged})]
    options = Settings(model=str(folder), device="cpu", dropout=0.0)
    parts = assemble(options, sets=sets, announce=lambda _: None)
    assert {name for item in parts.sources[1] for name in item.parts_of} == {"slots"}
    optimizer = adamw([{"params": list(parts.model.parameters()), "lr": 5e-3, "weight_decay": 0.0}])
    batches = [parts.batch(source) for source in parts.sources]
    for _ in range(60):
        forward_backward(batches, parts.model, parts.model, parts.mixer, parts.tasks, options)
        optimizer.step()
        optimizer.zero_grad()
    predictions = predict(parts.model, parts.tasks, parts.dev)
    found = measure(parts.tasks, parts.dev, predictions)["next"]
    assert isinstance(found, dict)
    assert found["accuracy"] == 1
