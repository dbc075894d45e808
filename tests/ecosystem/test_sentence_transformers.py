"""sentence-transformers' own evaluators, tools and trainer work on our model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibert import SentenceEncoder
from tests.test_encoder import small_encoder

peers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is missing")

from sentence_transformers import evaluation, losses, util

TEXTS = ["hello world", "hello", "a b c", "a b"]


@pytest.fixture
def peer(folder: str) -> Any:
    """Their model of our folder."""
    return peers.SentenceTransformer(folder, device="cpu")


def test_evaluators(theirs: Any, peer: Any) -> None:
    numbers = {str(i): text for i, text in enumerate(TEXTS)}
    for evaluator in (
        evaluation.EmbeddingSimilarityEvaluator(TEXTS[:3], TEXTS[1:], [0.9, 0.5, 0.1]),
        evaluation.InformationRetrievalEvaluator(
            {"q": "hello"}, numbers, {"q": {"0", "1"}}, show_progress_bar=False
        ),
        evaluation.TripletEvaluator(TEXTS[:2], TEXTS[1:3], TEXTS[2:]),
    ):
        assert evaluator(theirs) == pytest.approx(evaluator(peer), abs=1e-6)


@pytest.mark.parametrize("kind", ["encoder", "theirs"])
def test_paraphrase_mining(kind: str, request: pytest.FixtureRequest, peer: Any) -> None:
    """It takes whatever has their `encode`, so it takes a SentenceEncoder too."""
    found = util.paraphrase_mining(request.getfixturevalue(kind), TEXTS)
    expected = util.paraphrase_mining(peer, TEXTS)
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]
    assert np.allclose([pair[0] for pair in found], [pair[0] for pair in expected], atol=1e-6)


def test_their_trainer_trains_our_weights(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    ours = small_encoder(tmp_path, normalize=True)
    before = ours.encode(TEXTS)
    theirs = ours.to_sentence_transformers()
    settings = peers.SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=3, learning_rate=1e-2, report_to="none", use_cpu=True
    )
    peers.SentenceTransformerTrainer(
        theirs,
        settings,
        train_dataset=datasets.Dataset.from_dict({"a": TEXTS[::2], "b": TEXTS[1::2]}),
        loss=losses.MultipleNegativesRankingLoss(theirs),
    ).train()
    after = ours.encode(TEXTS)
    assert np.abs(after - before).max() > 1e-3
    assert np.allclose(theirs.encode(TEXTS), after, atol=1e-6)
    theirs.save_pretrained(str(tmp_path / "saved"))
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    assert np.allclose(again.encode(TEXTS), after, atol=1e-6)
