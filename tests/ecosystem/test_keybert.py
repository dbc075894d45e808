"""KeyBERT ranks a text's words by their vectors' cosines to the text's, which are ours."""

from typing import Any

import numpy as np
import pytest

from minibert import SentenceEncoder

keybert = pytest.importorskip("keybert", reason="KeyBERT is not installed")


def test_keywords(encoder: SentenceEncoder, theirs: Any) -> None:
    text = "hello world helloing"
    words = dict(keybert.KeyBERT(model=theirs).extract_keywords(text, top_n=3))
    assert set(words) == {"hello", "world", "helloing"}
    cosines = encoder.encode(list(words)) @ encoder.encode(text)
    assert np.allclose(list(words.values()), cosines, atol=1e-4)  # they round to four digits
