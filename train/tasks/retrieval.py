"""Queries that search a corpus.

Shapes: B sequences of a batch, D hidden, K texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from minibert.heads import normalize
from train.batches import Input, Item
from train.data.examples import Document, Example, Query
from train.model import JointModel
from train.retrieval import measure_rankings, rank_documents
from train.settings import Settings
from train.tasks.records import Prediction
from train.tasks.vectors import OF_RANKINGS, VectorTask


class Retrieval(VectorTask):
    """How well queries find what is relevant to them in a corpus, by the cosine of their vectors.
    It is only measured: nothing is learnt from it.

    A query does not find the document of its own name, unless that is relevant to it: in some
    collections of BEIR the queries are in the corpus.
    """

    kind = "retrieval"
    metrics = OF_RANKINGS
    reads_pairs = False

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(e.labels[name], Query | Document) for e in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "Retrieval":
        return cls(name, pooling=cls.pooling_of(name, settings))

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Retrieval":
        return cls(description["name"], pooling=description["pooling"])

    def summary(self) -> str:
        return f"{self.name} ({self.kind})"

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """A text is a query or a document only if its data says so."""
        return (Input(example.text),) if self.name in example.labels else ()

    def targets(self, item: Item) -> Sequence[None]:
        return [None]

    def compare(self, model: JointModel, vectors: Tensor, positions: Tensor) -> Tensor:
        """The texts' vectors of length 1, which are compared when all are known: (B, D) -> (K,
        D)."""
        return normalize(vectors)[positions[:, 0]]  # (B, D) -> (K, D)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError("a text to search with, or for, has no target")

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        return Prediction(None, vectors=logits.numpy())

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        labels = [item.example.labels[self.name] for item in items]
        queries = [i for i, label in enumerate(labels) if isinstance(label, Query)]
        documents = [i for i, label in enumerate(labels) if isinstance(label, Document)]
        numbers = {labels[i].name: number for number, i in enumerate(documents)}
        vectors = [prediction.vectors for prediction in predictions]
        of_queries, corpus = (
            np.concatenate([vectors[i] for i in chosen]) for chosen in (queries, documents)
        )
        relevances = [
            {numbers[name]: grade for name, grade in labels[i].relevance} for i in queries
        ]
        own = [numbers.get(items[i].example.id) for i in queries]
        rankings = rank_documents(of_queries, corpus, relevances, own)
        return measure_rankings(rankings, relevances)

    def error(self, gold: Query | Document, prediction: Prediction) -> float:
        """A vector alone is neither right nor wrong."""
        return 0.0

    def beside_gold(self, gold: Query | Document, prediction: Prediction) -> dict[str, Any]:
        return {"relevant": dict(gold.relevance)} if isinstance(gold, Query) else {}
