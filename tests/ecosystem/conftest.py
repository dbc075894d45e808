"""A small encoder, as the libraries of this folder get it.

Each test is skipped where its library is not installed: pip install -e '.[dev,ecosystem]'.
"""

from pathlib import Path
from typing import Any

import pytest

from minibert import SentenceEncoder
from tests.test_encoder import small_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    folder = tmp_path_factory.mktemp("ecosystem")
    return small_encoder(folder, normalize=True, prompts={"query": "hello "})


@pytest.fixture
def theirs(encoder: SentenceEncoder) -> Any:
    """The encoder as a SentenceTransformer."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    return encoder.to_sentence_transformers()


@pytest.fixture
def folder(encoder: SentenceEncoder, tmp_path: Path) -> str:
    """The encoder's folder, for a library that takes a name."""
    encoder.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")
