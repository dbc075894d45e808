"""Next sentence: whether a second segment follows the first.

Shapes: B sequences of a batch, D hidden, K targets. `*` stands for the tokens, (N) packed.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.heads import pool
from minibert.model import init_weights
from minibert.tokenizer import Tokenizer
from train.batches import Batch
from train.model import JointModel
from train.settings import Settings
from train.tasks.base import Task
from train.tasks.pairs import PairClassification
from train.tasks.records import Counterpart
from train.tasks.text import TextTask

NEXT, RANDOM = "next", "random"  # in the order of Google's head


class NextSentence(TextTask, PairClassification):
    """Whether a text's second segment follows the first or is from another document, by
    cross-entropy from BERT's pooler (Devlin et al. 2019, section 3.1, task 2).

    It is off by default: RoBERTa was as good or better without it (Liu et al. 2019, section 4.2,
    arXiv:1907.11692), since two segments leave each other half of the context.
    """

    kind = "next sentence"
    objective = "next"
    text_form = "segments"
    pretraining_part = "next_sentence"

    def __init__(self, name: str) -> None:
        super().__init__(name, (NEXT, RANDOM), "pooler")

    @classmethod
    def from_text(cls, settings: Settings, tokenizer: Tokenizer) -> "NextSentence":
        return cls(cls.objective)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "NextSentence":
        return cls(description["name"])

    @classmethod
    def from_transformers(
        cls, architecture: str, labels: tuple[str, ...], config: Mapping[str, Any]
    ) -> None:
        return None

    def text_label(self, text: str, follows: bool) -> str:
        return NEXT if follows else RANDOM

    def goes_on_from(self, other: Task, settings: Settings) -> bool:
        return isinstance(other, NextSentence)

    def expectation(self, entropy: float, config: BertConfig) -> str:
        return f"{self.name}: at first, the loss is ln 2 = 0.69"

    def build_head(self, config: BertConfig) -> nn.Module:
        head = nn.Linear(config.hidden_size, 2)
        init_weights(head, config)
        return head

    def logits(self, model: JointModel, states: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        assert model.bert.pooler is not None
        first = model.bert.pooler(pool(states, batch.layout, "cls"))  # (*, D) -> (B, D)
        return model.heads[self.name](first)[positions[:, 0]]  # (B, D) -> (K, 2)

    def counterpart(self) -> Counterpart | None:
        return None
