"""The answer to a question: a part of the text that it is asked of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.heads import SpanHead
from train.batches import Batch, Input, Item
from train.data.examples import Answers, Example
from train.model import JointModel
from train.settings import Settings
from train.span_metrics import answer_f1, answer_scores, best_margin, exact_match
from train.tasks.answers import AnswerPrediction, find_answers, to_prediction, token_span
from train.tasks.records import Counterpart, Mark, Metric, Prediction
from train.tasks.targets import TargetTask

OVERLAP = 128  # of two windows, in tokens: as in Google's run_squad.py
SHOWN = 3  # how many answers a record has


class QuestionAnswering(TargetTask):
    """Where the answer to a question begins and ends (Devlin et al. 2019, sections 4.2 and 4.3).

    The text is read in windows, each after the whole question. The loss of a window is the mean of
    two cross-entropies over its tokens, one of the answer's first token and one of its last. In a
    window that does not hold the answer, both are [CLS].

    threshold: by how much no answer must be better than the best one to be predicted. None: each
    question of the training data has an answer, and each is answered.
    """

    kind = "question"
    described: ClassVar = {**TargetTask.described, "threshold": float | None}
    uses_token_types = True
    metrics = (
        Metric("f1", is_shown=True, is_percent=True),
        Metric("exact_match", is_shown=True, is_percent=True),
        Metric("has_answer_f1", is_percent=True),
        Metric("has_answer_exact_match", is_percent=True),
        Metric("no_answer_accuracy", is_percent=True),
    )
    reads_pairs = True
    takes_windows = True
    overlap = OVERLAP

    def __init__(self, name: str, threshold: float | None = None) -> None:
        super().__init__(name)
        self.threshold = threshold

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(e.labels[name], Answers) and e.second is not None for e in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "QuestionAnswering":
        for example in examples:
            _check_answers(example, example.labels[name])
        has_unanswerable = any(not example.labels[name].texts for example in examples)
        return cls(name, 0.0 if has_unanswerable else None)

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> "QuestionAnswering | None":
        """The files do not say whether it learnt to give no answer, so it always answers."""
        return cls("answer") if architecture == "BertForQuestionAnswering" else None

    def check(self, example: Example) -> None:
        super().check(example)
        _check_answers(example, example.labels[self.name])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"threshold": self.threshold}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "QuestionAnswering":
        return cls(description["name"], description["threshold"])

    def summary(self) -> str:
        return f"{self.name} ({self.kind}{'' if self.threshold is None else ', or no answer'})"

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """Question and text. A pair that has other tasks' labels alone is none."""
        if example.second is None or (example.labels and self.name not in example.labels):
            return ()
        return (Input(example.text, example.second, self.overlap),)

    def build_head(self, config: BertConfig) -> nn.Module:
        return SpanHead(config)

    def positions(self, batch: Batch, i: int) -> Sequence[Sequence[int]]:
        """All tokens of each window."""
        starts = [batch.starts[row] for row in batch.rows_of(self.name, i)]
        windows = batch.items[i].tokens_of(self.name)
        return [
            range(start, start + len(window.ids))
            for start, window in zip(starts, windows, strict=True)
        ]

    def targets(self, item: Item) -> Sequence[tuple[int, int]]:
        """The first and last token of the first answer in each window, [CLS] where it is not."""
        answers: Answers = item.example.labels[self.name]
        windows = item.tokens_of(self.name)
        if not answers.texts:
            return [(0, 0)] * len(windows)
        start = answers.starts[0]
        return [token_span(window, start, start + len(answers.texts[0])) for window in windows]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        """For K windows, the longest of S tokens: what is behind the end of one is impossible."""
        logits = model.heads[self.name](states)  # (*, D) -> (*, 2)
        of_windows = logits[positions.clamp(min=0)]  # (*, 2) -> (K, S, 2)
        return of_windows.masked_fill((positions < 0).unsqueeze(-1), -math.inf)  # (K, S, 2)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        start, end = logits.float().unbind(-1)  # (K, S, 2) -> (K, S), (K, S)
        first, last = targets.unbind(-1)  # (K, 2) -> (K), (K)
        losses = F.cross_entropy(start, first, reduction="sum")
        return (losses + F.cross_entropy(end, last, reduction="sum")) / 2

    def decode(self, logits: Tensor, item: Item) -> AnswerPrediction:
        windows = item.tokens_of(self.name)
        scored = find_answers(windows, logits, item.example.second or "", self.overlap)
        return to_prediction(*scored, self.threshold)

    def tune(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Prediction]:
        """Choose the threshold by F1."""
        if self.threshold is None or not items:
            return predictions
        answered = [self._of(prediction).chosen(None) for prediction in predictions]
        gains = [
            answer_f1(gold, _text(found.label)) - answer_f1(gold, "")
            for gold, found in zip(self._gold(items), answered, strict=True)
        ]
        self.threshold = best_margin([found.margin for found in answered], gains)
        return [found.chosen(self.threshold) for found in answered]

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        return dict(answer_scores(self._gold(items), [_text(p.label) for p in predictions]))

    def is_right(self, gold: Answers, predicted: Answers) -> bool:
        return exact_match(gold.texts, _text(predicted)) == 1

    def error(self, gold: Answers, prediction: Prediction) -> float:
        """What the answer lacks of an F1 of 1, as much as the model was sure of it."""
        return (1 - answer_f1(gold.texts, _text(prediction.label))) * prediction.probability

    def readable(self, label: Answers, example: Example) -> str:
        return " / ".join(dict.fromkeys(label.texts)) or "no answer"

    def marks(self, label: Answers, example: Example) -> tuple[str, Sequence[Mark]]:
        places = {
            (start, start + len(t)) for t, start in zip(label.texts, label.starts, strict=True)
        }
        return example.second or "", [Mark("answer", *place) for place in sorted(places)]

    def as_record(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        """The answer as a slice of the text, "" if there is none; and the best candidates."""
        found = self._of(prediction)
        candidates = [
            {"answer": c.text, "start": c.start, "end": c.end, "probability": c.probability}
            for c in found.candidates
        ]
        chosen: dict[str, Any] = {"answer": "", "start": None, "end": None}
        if found.label.texts:
            chosen = candidates[0]
        elif candidates:
            candidates.insert(0, chosen | {"probability": found.probability})
        return {
            **chosen,
            "probability": found.probability,
            "candidates": candidates[:SHOWN],
        }

    def as_text(self, prediction: Prediction, example: Example) -> str:
        return f"{self.readable(prediction.label, example)} ({prediction.probability:.2f})"

    def beside_gold(self, gold: Answers, prediction: Prediction) -> dict[str, Any]:
        return {
            "gold": gold.texts,
            "predicted": _text(prediction.label),
            "probability": prediction.probability,
        }

    def counterpart(self) -> Counterpart:
        return Counterpart("BertForQuestionAnswering", "question-answering", ("start", "end"))

    def _gold(self, items: Sequence[Item]) -> list[Sequence[str]]:
        return [item.example.labels[self.name].texts for item in items]

    def _of(self, prediction: Prediction) -> AnswerPrediction:
        assert isinstance(prediction, AnswerPrediction)
        return prediction


def _text(label: Answers) -> str:
    return label.texts[0] if label.texts else ""


def _check_answers(example: Example, answers: Answers) -> None:
    """Raise InputError for an answer that does not stand where it should."""
    text = example.second or ""
    for answer, start in zip(answers.texts, answers.starts, strict=True):
        there = text[start : start + len(answer)] if start >= 0 else ""
        if not answer or there != answer:
            raise InputError(
                f"{example.where}: the answer {answer!r} of {example.text!r:.80} does not stand at "
                f"character {start} of its text, where {there!r} is"
            )
