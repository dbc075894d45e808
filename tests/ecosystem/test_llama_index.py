"""LlamaIndex takes a folder that we saved by its name."""

import numpy as np
import pytest

from minibert import SentenceEncoder

huggingface = pytest.importorskip(
    "llama_index.embeddings.huggingface", reason="llama-index-embeddings-huggingface is missing"
)


def test_a_saved_folder_is_a_name(encoder: SentenceEncoder, folder: str) -> None:
    model = huggingface.HuggingFaceEmbedding(model_name=folder)
    texts = ["hello world", "a b c"]
    assert np.allclose(model.get_text_embedding_batch(texts), encoder.encode(texts), atol=1e-6)
