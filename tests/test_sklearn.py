"""sklearn.py: a step of pipelines that scikit-learn can copy, search over and send to processes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibert import InputError, SentenceEncoder
from tests.test_encoder import TEXTS, D, small_encoder

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import joblib
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from minibert.sklearn import TextVectors

MOODS = [f"{word} {end}" for end in ["a", "b", "c", "d", "e", "f"] for word in ("hello", "world")]
LABELS = ["hello", "world"] * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sklearn")
    small_encoder(folder / "vocabulary").save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.mark.filterwarnings("ignore::minibert.tokens.TruncationWarning")
@pytest.mark.parametrize("normalize", [None, True])
def test_the_vectors_are_the_encoders(normalize: bool | None, folder: str) -> None:
    more: dict[str, Any] = {"pooling": "cls", "max_length": 6, "truncate_dim": 5}
    expected = SentenceEncoder.from_pretrained(folder, **more).encode(TEXTS, normalize=normalize)
    step = TextVectors(folder, normalize=normalize, **more)
    assert np.array_equal(step.fit_transform(TEXTS), expected)
    assert np.array_equal(step.transform(TEXTS), expected)


def test_a_copy_has_the_same_parameters_and_no_model(folder: str) -> None:
    step = TextVectors(folder, truncate_dim=3).fit(TEXTS)
    copied = clone(step)
    assert copied.get_params() == step.get_params()
    assert copied.get_params()["truncate_dim"] == 3
    assert not hasattr(copied, "encoder_")


def test_cross_validation_in_two_processes(folder: str) -> None:
    pipeline = make_pipeline(TextVectors(folder), LogisticRegression())
    scores = cross_val_score(pipeline, MOODS, LABELS, cv=2, n_jobs=2)
    assert np.array_equal(scores, cross_val_score(pipeline, MOODS, LABELS, cv=2))
    assert scores.mean() > 0.8


def test_a_search_sets_the_parameters(folder: str) -> None:
    pipeline = make_pipeline(TextVectors(folder), LogisticRegression())
    search = GridSearchCV(pipeline, {"textvectors__truncate_dim": [2, D]}, cv=2)
    search.fit(MOODS, LABELS)
    assert search.best_estimator_.predict(["hello a"]) == ["hello"]


def test_a_saved_pipeline_names_the_model_and_opens(folder: str, tmp_path: Path) -> None:
    pipeline = make_pipeline(TextVectors(folder), LogisticRegression()).fit(MOODS, LABELS)
    file = tmp_path / "pipeline.joblib"
    joblib.dump(pipeline, file)
    assert file.stat().st_size < Path(folder, "model.safetensors").stat().st_size / 4
    assert np.array_equal(joblib.load(file).predict_proba(MOODS), pipeline.predict_proba(MOODS))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        TextVectors(tmp_path / "nothing").fit(TEXTS)
