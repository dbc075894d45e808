"""Tags, answers and choices against the classes of transformers that have the same heads.

Evidence: what a run leaves in RUN/transformers is opened there, so that the weights are the same;
its logits, its loss and the gradients of all its parameters are compared, sequence by sequence, as
padding is no part of ours.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from minibert import Bert
from minibert.formats.names import checkpoint_name
from minibert.tokenizer import Tokenizer, Tokens
from tests.training import FILLERS, NAMES, PLACES, sentence, write_model
from train.batches import Item, collate, prepare
from train.data.examples import Answers, Example
from train.evaluation import predict
from train.model import JointModel, make_fast
from train.saved import save_for_transformers
from train.tasks import Task
from train.tasks.multiple_choice import MultipleChoice
from train.tasks.question_answering import QuestionAnswering
from train.tasks.tagging import TokenTagging

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = ("O", "B-name", "I-name", "B-place", "I-place")


def question(dice: random.Random) -> Example:
    """A question whose answer is a name or a place in a text that is longer than one window."""
    before, after = ([dice.choice(FILLERS) for _ in range(dice.randint(4, 16))] for _ in range(2))
    answer = " ".join(dice.choice((*NAMES, *PLACES)))
    text = " ".join([*before, answer, *after])
    start = len(" ".join(before)) + 1
    return Example("to the?", {"answer": Answers((answer,), (start,))}, "", second=text)


def examples() -> list[Example]:
    dice = random.Random(3)
    made = [sentence(dice) for _ in range(5)]
    tagged = [
        Example(" ".join(m["words"]), {"slots": tuple(m["slots"])}, "", tuple(m["words"]))
        for m in made
    ]
    choices = [" ".join(sentence(dice)["words"][:4]) for _ in range(9)]
    chosen = [
        Example("my days", {"next": str(i)}, "", choices=tuple(choices[3 * i : 3 * i + 3]))
        for i in range(3)
    ]
    return [*tagged, *(question(dice) for _ in range(5)), *chosen]


class Sides:
    """Ours and theirs, with the same weights; and items of one task."""

    def __init__(self, folder: Path, task: Task, theirs: Any) -> None:
        write_model(folder / "model", pooler=True)
        tokenizer = Tokenizer.from_folder(folder / "model").limited(20)
        self.task = task
        self.ours = JointModel(Bert.from_pretrained(folder / "model"), [task]).eval()
        make_fast(self.ours)
        save_for_transformers(folder, tokenizer, self.ours, [task], {}, "")
        exported = folder / "transformers" / task.name
        self.theirs = theirs.from_pretrained(exported).eval()
        every = prepare(examples(), tokenizer, [task])
        self.items = [item for item in every if task.name in item.example.labels]
        assert len(self.items) >= 3

    def compare(self, loss: Tensor) -> None:
        """Our loss is that one, and so are the gradients of all parameters."""
        batch = collate(self.items, [self.task])
        ours = self.task.loss(self.ours, self.ours(batch), batch) / self.task.count(batch)
        assert ours.item() == pytest.approx(loss.item(), abs=1e-5)
        ours.backward()
        loss.backward()
        gradients = {name: p.grad for name, p in self.theirs.named_parameters()}
        for name, parameter in self.ours.named_parameters():
            if name.startswith("bert.pooler.") and not self.task.uses_pooler:
                continue
            theirs = name.removeprefix(f"heads.{self.task.name}.")
            theirs = checkpoint_name(name) if name.startswith("bert.") else theirs
            wanted = gradients.pop(theirs)
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=1e-5)
        assert not gradients

    def logits(self) -> list[Tensor]:
        """Our logits of each item."""
        batch = collate(self.items, [self.task])
        assert isinstance(self.task, TokenTagging | QuestionAnswering | MultipleChoice)
        with torch.no_grad():
            states = self.ours(batch)
            positions = batch.positions[self.task.name]
            logits = self.task.logits(self.ours, states, batch, positions)
        counts = [len(self.task.positions(batch, i)) for i in range(len(self.items))]
        return list(logits.split(counts))


def tensors(tokens: Tokens) -> dict[str, Tensor]:
    return {
        "input_ids": torch.tensor([tokens.ids]),
        "token_type_ids": torch.tensor([tokens.type_ids]),
    }


def test_tags(tmp_path: Path) -> None:
    sides = Sides(tmp_path, TokenTagging("slots", LABELS), transformers.BertForTokenClassification)
    assert sides.theirs.config.id2label == dict(enumerate(LABELS))
    loss, count = torch.tensor(0.0), 0
    for item, ours in zip(sides.items, sides.logits(), strict=True):
        (tokens,) = item.parts
        labels = [-100] * len(tokens.ids)
        for word, position in tokens.first_pieces.items():
            labels[position] = LABELS.index(item.example.labels["slots"][word])
        found = sides.theirs(**tensors(tokens), labels=torch.tensor([labels]))
        firsts = list(tokens.first_pieces.values())
        torch.testing.assert_close(ours, found.logits[0, firsts], rtol=0, atol=1e-5)
        loss = loss + found.loss * len(firsts)
        count += len(firsts)
    sides.compare(loss / count)


def test_answers(tmp_path: Path) -> None:
    task = QuestionAnswering("answer")
    task.overlap = 5
    sides = Sides(tmp_path, task, transformers.BertForQuestionAnswering)
    windows, losses = 0, []
    for item, ours in zip(sides.items, sides.logits(), strict=True):
        answers = item.example.labels["answer"]
        for tokens, logits in zip(item.parts, ours, strict=True):
            first, last = wanted_span(tokens, answers.starts[0], answers.texts[0])
            found = sides.theirs(
                **tensors(tokens),
                start_positions=torch.tensor([first]),
                end_positions=torch.tensor([last]),
            )
            wanted = torch.stack((found.start_logits[0], found.end_logits[0]), -1)
            torch.testing.assert_close(logits[: len(tokens.ids)], wanted, rtol=0, atol=1e-5)
            losses.append(found.loss)
            windows += 1
    assert windows > len(sides.items) + 3
    sides.compare(torch.stack(losses).mean())


def wanted_span(tokens: Tokens, start: int, text: str) -> tuple[int, int]:
    """First and last token, as `prepare_train_features` of transformers' run_qa.py has them."""
    assert tokens.offsets is not None
    end = start + len(text)
    token_start = tokens.type_ids.index(1)
    token_end = len(tokens.ids) - 2
    if not (tokens.offsets[token_start][0] <= start and tokens.offsets[token_end][1] >= end):
        return 0, 0
    while token_start < len(tokens.offsets) and tokens.offsets[token_start][0] <= start:
        token_start += 1
        if tokens.type_ids[token_start : token_start + 2] == [1]:  # [SEP], which has no offsets
            break
    while tokens.offsets[token_end][1] >= end:
        token_end -= 1
    return token_start - 1, token_end + 1


def test_the_exported_model_gives_the_same_answers(tmp_path: Path) -> None:
    """Decoded in the plainest way: all pairs of tokens of all windows, with no limit of how many
    are looked at. So a text that fits into one window."""
    task = QuestionAnswering("answer")
    task.overlap = 5
    sides = Sides(tmp_path, task, transformers.BertForQuestionAnswering)
    dice = random.Random(5)
    contexts = [" ".join(sentence(dice)["words"]) for _ in range(12)]
    asked = [Example("the?", {}, "", second=context) for context in contexts]
    tokenizer = Tokenizer.from_folder(tmp_path / "transformers" / "answer")
    items = prepare(asked, tokenizer, [sides.task])
    for item, found in zip(items, predict(sides.ours, [sides.task], items), strict=True):
        record = sides.task.as_record(found["answer"], item.example)
        assert record["answer"] == (item.example.second or "")[record["start"] : record["end"]]
        (tokens,) = item.parts
        assert record["answer"] == best_answer(sides.theirs, item, tokens)


def best_answer(theirs: Any, item: Item, tokens: Tokens) -> str:
    with torch.no_grad():
        found = theirs(**tensors(tokens))
    best, text = -math.inf, ""
    context = range(tokens.type_ids.index(1), len(tokens.ids) - 1)
    for first in context:
        for last in range(first, context.stop):
            score = float(found.start_logits[0, first] + found.end_logits[0, last])
            if score > best:
                assert tokens.offsets is not None
                start, end = tokens.offsets[first][0], tokens.offsets[last][1]
                best, text = score, (item.example.second or "")[start:end]
    return text


def test_choices(tmp_path: Path) -> None:
    sides = Sides(tmp_path, MultipleChoice("next", "pooler"), transformers.BertForMultipleChoice)
    losses: list[Tensor] = []
    for item, ours in zip(sides.items, sides.logits(), strict=True):
        length = max(len(tokens.ids) for tokens in item.parts)
        found = sides.theirs(
            **{key: padded([getattr(t, field) for t in item.parts], length) for key, field in KEYS},
            attention_mask=padded([[1] * len(t.ids) for t in item.parts], length),
            labels=torch.tensor([int(item.example.labels["next"])]),
        )
        torch.testing.assert_close(ours, found.logits, rtol=0, atol=1e-5)
        losses.append(found.loss)
    sides.compare(torch.stack(losses).mean())


KEYS = (("input_ids", "ids"), ("token_type_ids", "type_ids"))


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    return torch.tensor([[[*row, *[0] * (length - len(row))] for row in rows]])
