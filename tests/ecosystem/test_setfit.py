"""setfit trains our weights by its own trainer, and classifies by our vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minibert import SentenceEncoder
from tests.test_encoder import small_encoder

setfit = pytest.importorskip("setfit", reason="setfit is not installed")

from datasets import Dataset
from sklearn.linear_model import LogisticRegression

TEXTS = [f"{word} {end}" for end in ["a", "b", "c", "d"] for word in ("hello", "world")]
LABELS = [0, 1] * 4


def make(encoder: SentenceEncoder) -> Any:
    theirs = encoder.to_sentence_transformers()
    return setfit.SetFitModel(model_body=theirs, model_head=LogisticRegression())


def test_the_head_gets_our_vectors(encoder: SentenceEncoder) -> None:
    model = make(encoder)
    model.fit(TEXTS, LABELS, num_epochs=1)
    expected = LogisticRegression().fit(encoder.encode(TEXTS), LABELS)
    assert np.allclose(model.model_head.coef_, expected.coef_, atol=1e-4)


def test_the_trainer_trains_our_weights(tmp_path: Path) -> None:
    encoder = small_encoder(tmp_path, normalize=True)
    before = encoder.encode(TEXTS)
    model = make(encoder)
    settings = setfit.TrainingArguments(
        output_dir=str(tmp_path / "run"), num_epochs=1, batch_size=4, max_steps=3, report_to="none"
    )
    data = Dataset.from_dict({"text": TEXTS, "label": LABELS})
    setfit.Trainer(model=model, args=settings, train_dataset=data).train()
    after = encoder.encode(TEXTS)
    assert np.abs(after - before).max() > 1e-4
    assert np.allclose(model.model_body.encode(TEXTS), after, atol=1e-6)
    assert (model.predict(TEXTS, as_numpy=True) == LABELS).all()
    assert all(torch.isfinite(weight).all() for weight in encoder.bert.parameters())
