"""Two texts: in one sequence, or apart; and their classes and numbers.

Shapes: B sequences of a batch, D hidden, C labels, K pairs.
"""

from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.heads import PairHead
from train.batches import Input
from train.data.examples import Example
from train.model import JointModel
from train.parse import parse_by_task
from train.settings import Settings
from train.tasks.classification import SentenceClassification
from train.tasks.regression import SentenceRegression
from train.tasks.targets import SentenceTask
from train.tasks.vectors import VectorTask


def asked_for(name: str, settings: Settings) -> str | None:
    """How the settings say that a task should read its pairs: "together", "apart", or nothing.
    Raises InputError for another word."""
    default, given = parse_by_task(settings.pairs, "pairs")
    word = given.get(name, default) or None
    if word not in (None, "together", "apart"):
        raise InputError(f"pairs = {settings.pairs!r}: {word!r} is not together or apart")
    return word


class Together(SentenceTask):
    """[CLS] first [SEP] second [SEP], the second of token type 1 (Devlin et al. 2019, section
    4.1). Of a pair over the limit, the longer text loses its end first."""

    reads_pairs = True
    takes_windows = False
    uses_token_types = True

    @classmethod
    def is_wanted(cls, name: str, settings: Settings) -> bool:
        return asked_for(name, settings) != "apart"

    def inputs(self, example: Example) -> tuple[Input, ...]:
        return () if example.second is None else (Input(example.text, example.second),)


class Apart(VectorTask):
    """Two sequences, whose vectors are compared."""

    @classmethod
    def is_wanted(cls, name: str, settings: Settings) -> bool:
        return asked_for(name, settings) != "together"

    def inputs(self, example: Example) -> tuple[Input, ...]:
        if example.second is None:
            return ()
        return Input(example.words or example.text), Input(example.second)


class PairClassification(Together, SentenceClassification):
    """One label for two texts in one sequence, by cross-entropy."""

    kind = "pair"


class PairClassificationApart(Apart, SentenceClassification):
    """One label for two texts from their vectors u, v and |u - v|, by cross-entropy (Reimers and
    Gurevych 2019, section 3, "classification objective function")."""

    kind = "pair apart"

    def build_head(self, config: BertConfig) -> nn.Module:
        super().build_head(config)  # raises for bad sizes
        return PairHead(config, len(self.labels))

    def compare(self, model: JointModel, vectors: Tensor, positions: Tensor) -> Tensor:
        first, second = vectors[positions[:, 0]], vectors[positions[:, 1]]  # (B, D) -> (K, D)
        return model.heads[self.name](first, second)  # (K, D), (K, D) -> (K, C)


class PairRegression(Together, SentenceRegression):
    """One number for two texts in one sequence, by squared error."""

    kind = "pair regression"
