"""Texts that belong together, among texts that do not.

Shapes: B sequences of a batch, D hidden, K anchors, P texts of the longest example (its anchor, its
positive, its negatives), M texts among which each anchor must find its positive.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from minibert.files import InputError
from minibert.heads import normalize
from train.batches import Input, Item
from train.data.examples import Example, Negatives
from train.model import JointModel
from train.parse import parse_by_task
from train.retrieval import measure_rankings, rank_documents
from train.settings import Settings
from train.tasks.records import Metric, Prediction
from train.tasks.vectors import OF_RANKINGS, VectorTask


class Contrastive(VectorTask):
    """An anchor must find its positive among the positives and negatives of all anchors in the
    batch, by the cosine of their vectors: InfoNCE (van den Oord et al. 2018, section 2.3,
    arXiv:1807.03748), also called multiple negatives ranking (Henderson et al. 2017, section 4.4,
    arXiv:1705.00652).

    The loss of an anchor a is the cross-entropy of cosines * scale. Its positive p is the right
    class among all texts t:

        loss = -log(exp(scale cos(a, p)) / sum_t exp(scale cos(a, t)))

    symmetric: the loss is the mean of this and of its mirror image, in which a positive must
    find its anchor among all anchors (as Radford et al. 2021, section 2.3, arXiv:2103.00020).
    A text that the model reads as the same tokens as the anchor or its positive is no negative of
    that anchor.
    """

    kind = "contrastive"
    metrics: ClassVar[tuple[Metric, ...]] = OF_RANKINGS
    keeps_texts_apart = True
    compares_items = True
    scale: float = 20.0
    symmetric: bool = False

    def __init__(self, name: str, pooling: str = "mean") -> None:
        super().__init__(name, (), pooling)

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(e.labels[name], Negatives) for e in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "Contrastive":
        if parse_by_task(settings.pairs, "pairs")[1].get(name) == "together":
            raise InputError(
                f"pairs = {settings.pairs!r}: {name} compares the vectors of an anchor and its "
                "positive, so they are read apart"
            )
        return cls(name, cls.pooling_of(name, settings))

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Contrastive":
        return cls(description["name"], description["pooling"])

    def configure(self, settings: Settings) -> None:
        super().configure(settings)
        self.scale, self.symmetric = settings.scale, settings.symmetric

    def summary(self) -> str:
        return f"{self.name} ({self.kind})"

    def inputs(self, example: Example) -> tuple[Input, ...]:
        if example.second is None:
            return ()
        negatives = example.labels.get(self.name, Negatives()).texts
        return tuple(map(Input, (example.text, example.second, *negatives)))

    def targets(self, item: Item) -> Sequence[list[int]]:
        """A number for each text that the item has, the same for the same tokens."""
        return [[hash(tuple(one.ids)) & (2**63 - 1) for one in item.tokens_of(self.name)]]

    def compare(self, model: JointModel, vectors: Tensor, positions: Tensor) -> Tensor:
        """The vectors of each anchor's texts, of length 1: (B, D) -> (K, P, D)."""
        return normalize(vectors)[positions.clamp(min=0)]  # (B, D) -> (K, P, D)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The losses of the anchors, summed: (K, P, D), (K, P) -> ()."""
        anchors = logits[:, 0]  # (K, P, D) -> (K, D)
        is_there = targets[:, 1:].T >= 0
        others = logits[:, 1:].transpose(0, 1)[is_there]  # (M, D), the K positives first
        with torch.autocast(logits.device.type, enabled=False):  # the scale enlarges rounding
            cosines = anchors @ others.T  # (K, D), (M, D) -> (K, M)
        own = targets[:, :2]  # (K, P) -> (K, 2)
        loss = self._ranking(cosines, own, targets[:, 1:].T[is_there])
        if self.symmetric:
            positives = cosines[:, : len(anchors)].T  # (K, M) -> (K, K)
            loss = (loss + self._ranking(positives, own, targets[:, 0])) / 2
        return loss

    def _ranking(self, cosines: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """The cross-entropy of finding the text with the same number as the row: (K, M), (K, 2),
        (M) -> (). own, others: the numbers of the rows' two texts and of the columns' texts."""
        is_own = (own.unsqueeze(1) == others.unsqueeze(1)).any(-1)  # (K, 2), (M) -> (K, M)
        right = torch.arange(len(own), device=own.device)
        is_own[right, right] = False
        logits = (self.scale * cosines).masked_fill(is_own, -torch.inf)  # (K, M) -> (K, M)
        return F.cross_entropy(logits, right, reduction="sum")

    def decode(self, logits: Tensor, item: Item) -> Prediction:
        """The anchor's cosines with the positive and with each negative."""
        vectors = logits[0, : len(item.tokens_of(self.name))].numpy()
        return Prediction(tuple((vectors[1:] @ vectors[0]).tolist()), vectors=vectors)

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Each anchor searches all positives and negatives of the items."""
        rankings, relevances = self._search(items, predictions)
        return measure_rankings(list(rankings.values()), list(relevances.values()))

    def _search(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> tuple[dict[str, list[int]], dict[str, dict[int, float]]]:
        """For each anchor, what it finds, the nearest first; and which texts are its positives. A
        text that equals the anchor is left out."""
        anchors: dict[str, NDArray[np.float32]] = {}
        corpus: dict[str, NDArray[np.float32]] = {}
        positives: dict[str, list[str]] = {}
        for item, prediction in zip(items, predictions, strict=True):
            example, vectors = item.example, prediction.vectors
            assert example.second is not None
            assert vectors is not None
            anchors[example.text] = vectors[0]
            texts = (example.second, *example.labels[self.name].texts)
            corpus |= zip(texts, vectors[1:], strict=True)
            positives.setdefault(example.text, []).append(example.second)
        numbers = {text: number for number, text in enumerate(corpus)}
        relevances = {
            anchor: dict.fromkeys((numbers[text] for text in texts), 1.0)
            for anchor, texts in positives.items()
        }
        queries, documents = (np.stack(list(v.values())) for v in (anchors, corpus))
        own = [numbers.get(anchor) for anchor in anchors]
        found = rank_documents(queries, documents, list(relevances.values()), own)
        return dict(zip(anchors, found, strict=True)), relevances

    def are_right(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> list[bool]:
        """Whether each anchor finds one of its positives first."""
        rankings, relevances = self._search(items, predictions)
        anchors = [item.example.text for item in items]
        return [rankings[anchor][0] in relevances[anchor] for anchor in anchors]

    def error(self, gold: Negatives, prediction: Prediction) -> float:
        """How far the positive is from the anchor."""
        return 1 - prediction.label[0]

    def readable(self, label: Any, example: Example) -> str:
        return str(example.second) if isinstance(label, Negatives) else f"cosine {label[0]:.4f}"

    def as_text(self, prediction: Prediction, example: Example) -> str:
        return f"{prediction.label[0]:.4f}"

    def as_record(self, prediction: Prediction, example: Example) -> dict[str, float]:
        return {"cosine": prediction.label[0]}

    def beside_gold(self, gold: Negatives, prediction: Prediction) -> dict[str, Any]:
        cosine, *others = prediction.label
        return {"cosine": cosine, "negatives": dict(zip(gold.texts, others, strict=True))}
