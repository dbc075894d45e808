"""Chroma searches by vectors that we compute, and takes a folder that we saved by its name."""

import numpy as np
import pytest

from minibert import SentenceEncoder

chromadb = pytest.importorskip("chromadb", reason="chromadb is not installed")

TEXTS = ["hello world", "a b c", "world"]


def test_a_collection_of_our_vectors(encoder: SentenceEncoder) -> None:
    collection = chromadb.EphemeralClient().create_collection("ours", embedding_function=None)
    ids = [str(i) for i in range(len(TEXTS))]
    collection.add(ids, embeddings=encoder.encode_document(TEXTS), documents=TEXTS)
    query = encoder.encode_query(["a"])
    found = collection.query(query_embeddings=query, n_results=3)
    distances = np.square(encoder.encode_document(TEXTS) - query).sum(1)
    assert found["documents"] == [[TEXTS[i] for i in np.argsort(distances)]]
    assert np.allclose(found["distances"], np.sort(distances), atol=1e-5)


def test_a_saved_folder_is_a_name(encoder: SentenceEncoder, folder: str) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction

    function = SentenceTransformerEmbeddingFunction(model_name=folder)
    assert np.allclose(function(TEXTS), encoder.encode(TEXTS), atol=1e-6)
