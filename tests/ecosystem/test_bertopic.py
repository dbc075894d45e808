"""BERTopic embeds documents by our model, and clusters these vectors."""

from typing import Any

import numpy as np
import pytest

from minibert import SentenceEncoder

bertopic = pytest.importorskip("bertopic", reason="BERTopic is not installed")

from bertopic.dimensionality import BaseDimensionalityReduction
from sklearn.cluster import KMeans

TEXTS = [f"{word} {end}" for end in ["a", "b", "c", "d", "e", "f"] for word in ("hello", "world")]


def test_topics(encoder: SentenceEncoder, theirs: Any) -> None:
    seen = []

    class Clusters(KMeans):
        """KMeans that notes what it gets, in the place of HDBSCAN, which needs more texts."""

        def fit(self, vectors: Any, targets: Any = None) -> Any:
            seen.append(vectors)
            return super().fit(vectors)

    model = bertopic.BERTopic(
        embedding_model=theirs,
        umap_model=BaseDimensionalityReduction(),
        hdbscan_model=Clusters(2, n_init=3, random_state=0),
    )
    topics, _ = model.fit_transform(TEXTS)
    assert np.allclose(seen[0], encoder.encode(TEXTS), atol=1e-6)
    expected = KMeans(2, n_init=3, random_state=0).fit_predict(encoder.encode(TEXTS))
    assert len(set(zip(topics, expected, strict=True))) == 2  # the same two groups
