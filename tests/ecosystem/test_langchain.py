"""LangChain's stores search by our vectors: through its Embeddings, in four lines, or with a folder
that we saved."""

import numpy as np
import pytest

from minibert import SentenceEncoder

core = pytest.importorskip("langchain_core", reason="langchain-core is not installed")

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

TEXTS = ["hello world", "a b c", "world"]


class Ours(Embeddings):
    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.encoder.encode_document(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.encoder.encode_query(text).tolist()


def test_a_store_finds_by_our_vectors(encoder: SentenceEncoder) -> None:
    store = InMemoryVectorStore(Ours(encoder))
    store.add_texts(TEXTS)
    found = store.similarity_search_with_score("a", k=3)
    scores = encoder.encode_document(TEXTS) @ encoder.encode_query("a")
    order = np.argsort(-scores)
    assert [document.page_content for document, _ in found] == [TEXTS[i] for i in order]
    assert np.allclose([score for _, score in found], scores[order], atol=1e-6)


def test_a_saved_folder_is_a_name(encoder: SentenceEncoder, folder: str) -> None:
    huggingface = pytest.importorskip(
        "langchain_huggingface", reason="langchain-huggingface is not installed"
    )
    embeddings = huggingface.HuggingFaceEmbeddings(model_name=folder)
    assert np.allclose(embeddings.embed_documents(TEXTS), encoder.encode(TEXTS), atol=1e-6)
