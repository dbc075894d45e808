"""Masked words: which word stands where it is hidden.

Shapes: D hidden, V vocabulary, K masked tokens of a batch. `*` stands for the tokens, (N) packed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.heads import MaskedWordHead
from minibert.tokenizer import Tokenizer
from train.batches import Batch, Input, Item
from train.data.examples import Example
from train.model import JointModel
from train.settings import Settings
from train.tasks.base import Task
from train.tasks.masks import Masks
from train.tasks.records import Metric, Prediction
from train.tasks.text import TextTask

HIGHEST = 700.0  # nats: e to this is still a number


class Filled(NamedTuple):
    """What became of the masked words of a sequence."""

    masked: int
    right: int
    loss: float  # summed, in nats


class MaskedWords(TextTask):
    """The words at hidden positions, by cross-entropy over the vocabulary (Devlin et al. 2019,
    section 3.1, task 1).

    The loss is that of masked words alone, and the logits are computed for them alone: a seventh of
    the products with the vocabulary. The decoder is the table of word embeddings.

    A loss that stays near 6 or 7 is the plateau that people ask about most. A model that knows the
    frequency p(w) of each word w, and nothing of the context, has the loss of these frequencies,
    their entropy -sum p(w) ln p(w). That is learnt in the first few hundred steps. To get below
    it, attention must find which other word tells something of the hidden one; until then, nearly
    all of a gradient is noise. What gets past it: more steps (many small batches first, see
    `ramp_steps`), a rate as high as training bears, with a warm-up, no dropout, and text enough.

    In an epoch of training, which words are masked follows from the seed, the epoch and the item's
    number, so a resumed run masks the same ones. In evaluation it is the same each time.
    """

    kind = "masked words"
    described: ClassVar = {**TextTask.described, "masks": dict[str, float | bool]}
    objective = "masked"
    hides_words = True
    pretraining_part = "masked_words"
    instead = 'python -m minibert fill-mask "a [MASK] text" --model RUN/model'
    metrics = (
        # of the right words, their geometric mean: unlike accuracy, it rises with every improvement
        Metric("probability"),
        Metric("accuracy", is_shown=True, is_percent=True),
        Metric("perplexity", is_shown=True, sign=-1),
    )

    def __init__(self, name: str, masks: Masks) -> None:
        super().__init__(name)
        self.masks = masks

    @classmethod
    def from_text(cls, settings: Settings, tokenizer: Tokenizer) -> "MaskedWords":
        return cls(cls.objective, Masks.of(settings, tokenizer))

    def text_label(self, text: str, follows: bool) -> str:
        """The text as it is: what stands where the masks are."""
        return text

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"masks": self.masks._asdict()}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "MaskedWords":
        return cls(description["name"], Masks(**description["masks"]))

    def summary(self) -> str:
        return f"{self.name} ({self.kind}, {self.masks.rate:.0%})"

    def goes_on_from(self, other: Task, settings: Settings) -> bool:
        return isinstance(other, MaskedWords)

    def expectation(self, entropy: float, config: BertConfig) -> str:
        first = math.log(config.vocab_size)
        return (
            f"{self.name}: at first, the loss is ln {config.vocab_size} = {first:.2f}. It falls at "
            f"once to about {entropy:.2f}, the entropy of the text's tokens, where the model knows "
            "how frequent each word is. It stays there until attention begins to use the context"
        )

    def inputs(self, example: Example) -> tuple[Input, ...]:
        """Nothing: a text to predict on has its own masks."""
        return ()

    def build_head(self, config: BertConfig) -> nn.Module:
        return MaskedWordHead(config)

    def add_targets(self, batch: Batch) -> None:
        positions: list[int] = []
        targets: list[int] = []
        replacements: list[int] = []
        for i, item in enumerate(batch.items):
            if self.name not in item.example.labels:
                continue
            [tokens], [row] = item.tokens_of(self.name), batch.rows_of(self.name, i)
            chosen, replaced = self.masks.draw(tokens, batch.epoch, item.number)
            positions += [batch.starts[row] + position for position in chosen]
            targets += [tokens.ids[position] for position in chosen]
            replacements += replaced
        if positions:
            device = batch.input_ids.device
            batch.positions[self.name] = torch.tensor(positions, device=device)
            batch.targets[self.name] = torch.tensor(targets, device=device)
            hidden = torch.tensor(replacements, device=device)
            batch.input_ids[batch.positions[self.name]] = hidden

    def loss(self, model: JointModel, states: Tensor, batch: Batch) -> Tensor:
        logits = self.logits(model, states, batch.positions[self.name])  # (*, D) -> (K, V)
        return F.cross_entropy(logits, batch.targets[self.name], reduction="sum")

    def logits(self, model: JointModel, states: Tensor, positions: Tensor) -> Tensor:
        table = model.bert.embeddings.word.weight  # (V, D)
        logits = model.heads[self.name](states[positions], table)  # (*, D) -> (K, V)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 is too coarse

    def count(self, batch: Batch) -> float:
        """How many words are masked."""
        return float(len(batch.targets.get(self.name, ())))

    def predict(self, model: JointModel, states: Tensor, batch: Batch) -> dict[int, Prediction]:
        chosen = [i for i, item in enumerate(batch.items) if self.name in item.example.labels]
        if self.name not in batch.targets:
            return {i: Prediction(Filled(0, 0, 0.0)) for i in chosen}
        targets = batch.targets[self.name]
        logits = self.logits(model, states, batch.positions[self.name])  # (*, D) -> (K, V)
        losses = F.cross_entropy(logits, targets, reduction="none").tolist()
        hits = (logits.argmax(-1) == targets).tolist()
        found: dict[int, Prediction] = {}
        end = 0
        for i in chosen:
            item = batch.items[i]
            [tokens] = item.tokens_of(self.name)
            start, end = end, end + len(self.masks.draw(tokens, batch.epoch, item.number)[0])
            found[i] = Prediction(
                Filled(end - start, sum(hits[start:end]), math.fsum(losses[start:end]))
            )
        return found

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        masked, right, loss = np.sum([prediction.label for prediction in predictions], axis=0)
        mean = loss / max(masked, 1)
        return {
            "probability": math.exp(-mean),
            "accuracy": right / max(masked, 1),
            "perplexity": math.exp(min(mean, HIGHEST)),
        }

    def is_right(self, gold: str, predicted: Filled) -> bool:
        return predicted.right == predicted.masked

    def error(self, gold: str, prediction: Prediction) -> float:
        """The mean loss of the masked words."""
        return prediction.label.loss / max(prediction.label.masked, 1)

    def as_record(self, prediction: Prediction, example: Example) -> dict[str, float]:
        return prediction.label._asdict()

    def as_text(self, prediction: Prediction, example: Example) -> str:
        masked, right, loss = prediction.label
        return f"{right} of {masked} masked words, loss {loss / max(masked, 1):.2f}"

    def beside_gold(self, gold: str, prediction: Prediction) -> dict[str, Any]:
        return prediction.label._asdict()
