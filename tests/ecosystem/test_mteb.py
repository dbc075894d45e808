"""mteb scores our model as it scores a SentenceTransformer of the same folder."""

from typing import Any

import pytest

mteb = pytest.importorskip("mteb", reason="mteb is not installed")

from datasets import Dataset, DatasetDict
from mteb.abstasks.sts import AbsTaskSTS

PAIRS = [
    ("hello world", "hello", 5.0),
    ("a b c", "a b", 4.0),
    ("world", "b c d", 1.0),
    ("d e", "hello", 0.0),
    ("helloing", "hello", 3.0),
]


class Similarity(AbsTaskSTS):
    """Five scored pairs."""

    metadata = mteb.TaskMetadata(
        name="FivePairs",
        description="Five pairs of texts.",
        dataset={"path": "none", "revision": "1"},
        type="STS",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
    )
    min_score, max_score = 0, 5

    def load_data(self, *args: Any, **more: Any) -> None:
        first, second, scores = zip(*PAIRS, strict=True)
        columns = {"sentence1": first, "sentence2": second, "score": scores}
        self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
        self.data_loaded = True


def score(model: Any) -> float:
    found = mteb.evaluate(model, Similarity(), cache=None)
    return found.task_results[0].get_score()


def test_the_score_is_that_of_sentence_transformers(theirs: Any, folder: str) -> None:
    peers = pytest.importorskip("sentence_transformers")
    assert score(theirs) == pytest.approx(score(peers.SentenceTransformer(folder)), abs=1e-6)
