"""Answers as parts of a text: from characters to tokens, and from logits back to characters.

Shapes: W windows of a text, the longest of S tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minibert.tokenizer import Tokens
from train.data.examples import Answers
from train.tasks.records import Prediction
from train.tasks.windows import best_windows, text_positions

# as in Google's run_squad.py
N_BEST = 20  # how many starts, ends and answers are looked at
MOST_TOKENS = 30  # of an answer

NO_ANSWER = Answers((), ())
Scored = tuple[float, int, int]  # a logit, and a part of the text in characters


@dataclass(frozen=True)
class Candidate:
    """A part of the text, (start, end) in characters, and how probable it is as the answer."""

    text: str
    start: int
    end: int
    probability: float


@dataclass(frozen=True)
class AnswerPrediction(Prediction):
    """The answer to a question.

    candidates: the best first. margin: by how much the logit of no answer is above that of the best
    candidate. no_answer: the probability that there is none.
    """

    candidates: tuple[Candidate, ...] = ()
    margin: float = math.inf
    no_answer: float = 0.0

    def chosen(self, threshold: float | None) -> "AnswerPrediction":
        """The same with no answer as its label if the margin is above the threshold, and with the
        best candidate if it is not. None: some answer in any case."""
        if not self.candidates or (threshold is not None and self.margin > threshold):
            return replace(self, label=NO_ANSWER, probability=self.no_answer)
        best = self.candidates[0]
        label = Answers((best.text,), (best.start,))
        return replace(self, label=label, probability=best.probability)


def token_span(window: Tokens, start: int, end: int) -> tuple[int, int]:
    """The tokens of a window that hold a part of its text, first and last; [CLS] if not all of it
    is there."""
    offsets = window.offsets or []
    positions = text_positions(window)
    first = [position for position in positions if offsets[position][0] <= start]
    last = [position for position in positions if offsets[position][1] >= end]
    if not first or not last:
        return 0, 0
    return first[-1], last[0]


def find_answers(
    windows: Sequence[Tokens], logits: Tensor, text: str, overlap: int | None
) -> tuple[dict[str, Scored], float]:
    """The best answers that the text has, the best first, and the logit of no answer.

    logits: of each token to be the first and to be the last, (W, S, 2). An answer's logit is the
    sum of two, and that of no answer the sum of those of [CLS], in the window where it is lowest.
    """
    best_of = set(best_windows(windows, overlap))
    found: list[Scored] = []
    no_answer = math.inf
    for number, (window, of_window) in enumerate(zip(windows, logits, strict=True)):
        start, end = of_window[: len(window.ids)].unbind(-1)
        no_answer = min(no_answer, float(start[0] + end[0]))
        of_text = set(text_positions(window))
        offsets = window.offsets or []
        for first in _highest(start):
            # a token begins answers in one window alone, the one where it has most context
            if (number, first) in best_of:
                found += [
                    (float(start[first] + end[last]), offsets[first][0], offsets[last][1])
                    for last in _highest(end)
                    if first <= last < first + MOST_TOKENS and last in of_text
                ]
    distinct: dict[str, Scored] = {}  # the same text may stand in several places
    for one in sorted(found, key=lambda answer: -answer[0]):
        distinct.setdefault(text[one[1] : one[2]], one)
    return dict(list(distinct.items())[:N_BEST]), no_answer


def to_prediction(
    best: dict[str, Scored], no_answer: float, threshold: float | None
) -> AnswerPrediction:
    """What `find_answers` found, as the prediction by a threshold."""
    scores = [score for score, _, _ in best.values()]
    if threshold is not None or not best:
        scores.append(no_answer)
    probabilities = torch.tensor(scores).softmax(-1).tolist()
    candidates = tuple(
        Candidate(part, start, end, probability)
        for (part, (_, start, end)), probability in zip(best.items(), probabilities, strict=False)
    )
    return AnswerPrediction(
        NO_ANSWER,
        candidates=candidates,
        margin=no_answer - scores[0],
        no_answer=probabilities[-1] if len(probabilities) > len(best) else 0.0,
    ).chosen(threshold)


def _highest(logits: Tensor) -> list[int]:
    """Where the highest are, the highest first."""
    return logits.topk(min(N_BEST, len(logits))).indices.tolist()
