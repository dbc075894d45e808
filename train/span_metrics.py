"""The metrics of entities and of answers, by hand; the tests hold them against seqeval and against
the rules of SQuAD's script."""

import re
import string
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

from train.metrics import precision_recall_f1
from train.tags import Entity


def entity_scores(
    gold: Sequence[Collection[Entity]], predicted: Sequence[Collection[Entity]]
) -> tuple[float, float, float]:
    """Precision, recall and F1 of the entities of all texts: right means the same type and the same
    words.

    Source: Tjong Kim Sang and De Meulder 2003 (CoNLL-2003), micro-averaged.
    """
    pairs = [(set(g), set(p)) for g, p in zip(gold, predicted, strict=True)]
    return precision_recall_f1(
        sum(len(g & p) for g, p in pairs),
        sum(len(p) for _, p in pairs),
        sum(len(g) for g, _ in pairs),
    )


def scores_by_type(
    gold: Sequence[Collection[Entity]], predicted: Sequence[Collection[Entity]]
) -> dict[str, dict[str, float]]:
    """The same for each type that occurs in either, with "support": how many gold ones it has."""
    pairs = [(set(g), set(p)) for g, p in zip(gold, predicted, strict=True)]
    hits = Counter(kind for g, p in pairs for kind, _, _ in g & p)
    support = Counter(kind for g, _ in pairs for kind, _, _ in g)
    found = Counter(kind for _, p in pairs for kind, _, _ in p)
    result: dict[str, dict[str, float]] = {}
    for kind in sorted({*support, *found}):
        precision, recall, f1 = precision_recall_f1(hits[kind], found[kind], support[kind])
        figures = {"precision": precision, "recall": recall, "f1": f1}
        result[kind] = figures | {"support": support[kind]}
    return result


# The rules of SQuAD's evaluate-v2.0.py (Rajpurkar et al. 2016, section 6.1; 2018).


def normalize_answer(text: str) -> str:
    """A text in lower case, without punctuation and the articles a, an, the, with single spaces."""
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(gold: Sequence[str], predicted: str) -> float:
    """1 if the answer is one of the right ones once both are normalized, else 0. No right answer
    means that the right one is none, which is the empty text."""
    return float(normalize_answer(predicted) in map(normalize_answer, _right(gold)))


def answer_f1(gold: Sequence[str], predicted: str) -> float:
    """The F1 of the answer's words, against the right answer that gives most."""
    return max(_overlap(right, predicted) for right in _right(gold))


def _right(gold: Sequence[str]) -> Sequence[str]:
    """The right answers of which something is left once they are normalized."""
    return [text for text in gold if normalize_answer(text)] or [""]


def _overlap(gold: str, predicted: str) -> float:
    right, found = (normalize_answer(text).split() for text in (gold, predicted))
    if not right or not found:
        return float(right == found)
    hits = sum((Counter(right) & Counter(found)).values())
    return precision_recall_f1(hits, len(found), len(right))[2]


def answer_scores(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> Mapping[str, float]:
    """The mean exact match and F1 of all questions, and of those that have an answer; and the share
    of the others that got none. 0 for no questions."""
    exact = [exact_match(right, found) for right, found in zip(gold, predicted, strict=True)]
    f1 = [answer_f1(right, found) for right, found in zip(gold, predicted, strict=True)]
    has_answer = [bool(right) for right in gold]

    def mean(values: Sequence[float], *wanted: bool) -> float:
        chosen = [value for value, has in zip(values, has_answer, strict=True) if has in wanted]
        return sum(chosen) / max(len(chosen), 1)

    return {
        "f1": mean(f1, True, False),
        "exact_match": mean(exact, True, False),
        "has_answer_f1": mean(f1, True),
        "has_answer_exact_match": mean(exact, True),
        "no_answer_accuracy": mean(exact, False),
    }


def best_margin(margins: Sequence[float], gains: Sequence[float]) -> float:
    """The most that the margin of an answered question should be: those above are left unanswered.

    gains: what answering each question adds to the sum of scores, in comparison to leaving it
    unanswered. Source: `find_best_thresh` of SQuAD's evaluate-v2.0.py.
    """
    order = sorted(range(len(margins)), key=margins.__getitem__)
    totals = list(accumulate((gains[i] for i in order), initial=0.0))
    best = totals.index(max(totals))
    return margins[order[best - 1]] if best else margins[order[0]] - 1.0
