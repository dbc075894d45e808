"""How similar two texts are."""

from collections.abc import Sequence

from torch import Tensor, nn

from minibert.files import InputError
from minibert.heads import POOLINGS, normalize, pool
from minibert.model import BertConfig
from train.batches import Batch, Input
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.tasks.base import Counterpart
from train.tasks.regression import SentenceRegression


class PairSimilarity(SentenceRegression):
    """One number for a pair of texts: the cosine of their vectors, by squared error, without a head
    (Reimers and Gurevych 2019, section 3, "regression objective function")."""

    kind = "similarity"
    takes_windows = False
    reads_pairs = True
    poolings = tuple(POOLINGS)

    def __init__(self, name: str, pooling: str = "mean") -> None:
        super().__init__(name, pooling)
        self.vector_pooling = pooling

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return all(isinstance(e.labels[name], float) and e.second is not None for e in examples)

    @classmethod
    def from_examples(
        cls, name: str, examples: Sequence[Example], settings: Settings
    ) -> "SentenceRegression":
        if not all(-1 <= example.labels[name] <= 1 for example in examples):
            raise InputError(
                f"the task {name} scores pairs, and a cosine lies in -1 to 1: scale its scores"
            )
        return super().from_examples(name, examples, settings)

    def inputs(self, example: Example) -> tuple[Input, ...]:
        if example.second is None:
            return ()
        return Input(example.words or example.text), Input(example.second)

    def build_head(self, config: BertConfig) -> nn.Module:
        return nn.Identity()

    def positions(self, batch: Batch, i: int) -> Sequence[Sequence[int]]:
        return [batch.rows_of(self.name, i)]

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        vectors = normalize(pool(states, batch.layout, self.pooling))  # (*, D) -> (B, D)
        first, second = vectors[positions[:, 0]], vectors[positions[:, 1]]  # (B, D) -> (K, D)
        return (first * second).sum(-1)  # (K, D) -> (K)

    def counterpart(self) -> Counterpart | None:
        return None
