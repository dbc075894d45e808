"""A SentenceEncoder as the first step of a scikit-learn pipeline. Needs scikit-learn."""

from collections.abc import Iterable
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from minibert.encoder import SentenceEncoder


class TextVectors(TransformerMixin, BaseEstimator):
    """Texts to vectors: make_pipeline(TextVectors("minilm"), LogisticRegression()).

    The arguments are those of `SentenceEncoder.from_pretrained` and `encode`. Nothing is learnt:
    `fit` only loads the model. A pickle or a copy holds the model's name, not its weights, and
    loads it when it is first used.
    """

    def __init__(
        self,
        model: str | PathLike[str] = "minilm",
        *,
        pooling: str | None = None,
        max_length: int | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.max_length = max_length
        self.truncate_dim = truncate_dim
        self.normalize = normalize
        self.device = device

    def fit(self, texts: Iterable[str], targets: Any = None) -> Self:
        """Load the model. Raises InputError if it cannot be had."""
        self.encoder_ = SentenceEncoder.from_pretrained(
            self.model,
            pooling=self.pooling,
            max_length=self.max_length,
            truncate_dim=self.truncate_dim,
            device=self.device,
        )
        return self

    def transform(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """One vector for each text: (n, D) float32. Errors as of `SentenceEncoder.encode`."""
        if not hasattr(self, "encoder_"):
            self.fit(texts)
        return self.encoder_.encode(texts, normalize=self.normalize)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {key: value for key, value in state.items() if key != "encoder_"}
