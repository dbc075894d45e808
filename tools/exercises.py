"""Ten exercises about BERT, each with an answer that runs.

    python -m tools.exercises        lists them
    python -m tools.exercises 3      answers the third

Think of an answer first. The text says where to look; the code of each function is one way to do
it. They run MiniLM, in a few seconds each.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.heads import POOLINGS, SentenceHead, pool
from minibert.layout import Packed, Padded
from minibert.model import Attention, attention
from minibert.program import run_program
from train.batches import Batch, collate, prepare
from train.data.examples import Example
from train.freezing import FreezingPlan
from train.mixing import LossMixer
from train.model import JointModel, set_dropout
from train.optimizer import build_optimizer, set_rates
from train.settings import Settings
from train.step import forward_backward
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification

Rows = Iterator[tuple[str, float]]  # what was measured, and the number
Exercise = Callable[[SentenceEncoder], Rows]

TEXTS = (
    "The bank raised its rates.",
    "She sat on the bank of the river and watched the boats go by.",
)
LABELLED = (
    ("A fine film with a warm heart", "good"),
    ("Dull", "bad"),
    ("The actors are lively and the story is clever", "good"),
    ("Two hours that nobody will give me back", "bad"),
)


def rows_of(encoder: SentenceEncoder, texts: Sequence[str] = TEXTS) -> tuple[Tensor, Tensor]:
    """The ids of texts in rows, and their mask: (B, S) each."""
    tokens = encoder.tokenizer.encode(texts)
    longest = max(len(one.ids) for one in tokens)
    ids = torch.tensor([one.ids + [0] * (longest - len(one.ids)) for one in tokens])
    mask = torch.tensor([[1] * len(one.ids) + [0] * (longest - len(one.ids)) for one in tokens])
    return ids, mask.bool()


def cosine(u: Tensor, v: Tensor) -> float:
    return F.cosine_similarity(u.flatten(), v.flatten(), dim=0).item()


def probabilities(
    encoder: SentenceEncoder,
    text: str,
    function: Callable[..., Tensor] = attention,
    bias: Tensor | None = None,
) -> Tensor:
    """How much each token of a text attends to each other one in the first layer: (1, H, S, S)."""
    ids, mask = rows_of(encoder, [text])
    first = next(part for part in encoder.bert.modules() if isinstance(part, Attention))
    x = encoder.bert.hidden_states(ids, mask)[0]
    query, key, _ = (y.transpose(1, 2) for y in first.project(x))
    one_hot = torch.eye(ids.size(1)).expand(1, first.num_heads, -1, -1)
    return function(query, key, one_hot, mask, bias)


def entropy(probabilities: Tensor) -> float:
    """The mean entropy of some rows of probabilities, in bits: 3 is as wide as eight tokens."""
    return -(probabilities * probabilities.clamp(min=1e-12).log2()).sum(-1).mean().item()


def leave_out_the_root(encoder: SentenceEncoder) -> Rows:
    """Leave out the division by sqrt(W) in `attention`, and look at the first layer. Do the
    probabilities become wider or sharper? How far does the last hidden state move?

    Sharper: the scores grow by sqrt(W), so the softmax gives nearly all to the largest.
    """

    def unscaled(query: Tensor, *rest: Any, **more: Any) -> Tensor:
        return attention(query * math.sqrt(query.size(-1)), *rest, **more)

    yield "entropy of a row, in bits", entropy(probabilities(encoder, TEXTS[0]))
    yield "without the root", entropy(probabilities(encoder, TEXTS[0], unscaled))
    ids, mask = rows_of(encoder, TEXTS[:1])
    plain = encoder.bert(ids, mask)
    with patch.object(Attention, "attention", staticmethod(unscaled)):
        yield "cosine of the last hidden states", cosine(plain, encoder.bert(ids, mask))


def freeze_layers(encoder: SentenceEncoder) -> Rows:
    """Freeze the embeddings and layers 0-3 of six (`FreezingPlan`), and take one step. Predict
    which units move, and how far.

    The frozen ones do not move by a bit: they have no gradient and no place in the optimizer. Of
    the others each number moves by about the rate, since AdamW's first step has that size whatever
    the gradient's. The pooler stays too, as no task uses it.
    """
    torch.manual_seed(0)
    task = SentenceClassification("mood", ("bad", "good"))
    model, batches = lesson(task, encoder, LABELLED)
    settings = Settings(lr=1e-4, head_lr=1e-3)
    FreezingPlan(model, "embeddings, layers.0-3", "", [task]).apply(1)
    before = copy.deepcopy(model.state_dict())
    mixer = LossMixer([task], settings)
    optimizer = build_optimizer(model, mixer, settings)
    set_rates(optimizer, 1.0)
    forward_backward(batches, model, model, mixer, [task], settings)
    optimizer.step()
    for name, unit in model.units().items():
        prefix = name.replace("head.", "heads.") if name.startswith("head.") else f"bert.{name}"
        moved = [
            (parameter - before[f"{prefix}.{own}"]).abs().max().item()
            for own, parameter in unit.named_parameters()
        ]
        yield f"{name}: the largest change of a number", max(moved)


def lesson(
    task: Task, encoder: SentenceEncoder, pairs: Sequence[tuple[str, str]], size: int = 4
) -> tuple[JointModel, list[Batch]]:
    """A model with one task's head, and labelled texts in batches of `size`."""
    model = JointModel(encoder.bert, [task])
    set_dropout(model, 0.0)
    examples = [Example(text, {task.name: label}, "") for text, label in pairs]
    items = prepare(examples, encoder.tokenizer, [task])
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    return model, [collate(chunk, [task]) for chunk in chunks]


def add_a_relative_bias(encoder: SentenceEncoder) -> Rows:
    """Give attention a relative position bias through its one argument: a token sees another one
    less, the farther away it is. How far away does a token look on average, in the first layer,
    with and without?

    CONTRIBUTING.md shows where a bias that is learnt would be handed over.
    """
    positions = torch.arange(rows_of(encoder, TEXTS[1:])[0].size(1))
    distance = (positions[:, None] - positions).abs().float()
    for name, bias in (("BERT", None), ("a bias of -distance / 2", -distance / 2)):
        looks = probabilities(encoder, TEXTS[1], bias=bias)
        yield f"{name}: mean distance", (looks * distance).sum(-1).mean().item()


def forget_the_mask(encoder: SentenceEncoder) -> Rows:
    """Encode a short text beside a long one, with the padding mask and without it. How near is its
    vector to that of the text alone?

    With the mask it is the same but for rounding. Without it the text attends to [PAD], and its
    mean counts the padding too.
    """
    ids, mask = rows_of(encoder)
    alone = pool(encoder.bert(ids[:1, : mask[0].sum()]), Padded(mask[:1, : mask[0].sum()]), "mean")
    for name, seen in (("with the mask", mask), ("without", torch.ones_like(mask))):
        beside = pool(encoder.bert(ids, seen), Padded(seen), "mean")[0]
        yield f"largest difference of a number: {name}", (beside - alone[0]).abs().max().item()


def forget_the_positions(encoder: SentenceEncoder) -> Rows:
    """Set all position embeddings to zero. What is the cosine of "the dog bit the man" and "the man
    bit the dog" now?

    One: attention, pooling and all else treat a sentence as a set of tokens. Only the positions
    know the order.
    """
    texts = ["the dog bit the man", "the man bit the dog"]
    yield "cosine", cosine(*torch.from_numpy(encoder.encode(texts)))
    with torch.no_grad():
        encoder.bert.embeddings.position.weight.zero_()
    yield "cosine without positions", cosine(*torch.from_numpy(encoder.encode(texts)))


def change_the_pooling(encoder: SentenceEncoder) -> Rows:
    """MiniLM was trained with the mean. What do other poolings say of a paraphrase and of another
    text? Which of them tells the two apart best, and which worst?

    mean_sqrt_len_tokens is the mean times a number, so it changes no cosine. Three texts prove
    little: which pooling is best for your texts must be measured on many.
    """
    texts = ["How do I open an account?", "I want to become a customer.", "The river is frozen."]
    for pooling in POOLINGS:
        other = SentenceEncoder(encoder.bert, encoder.tokenizer, pooling=pooling)
        text, paraphrase, another = torch.from_numpy(other.encode(texts))
        gap = cosine(text, paraphrase) - cosine(text, another)
        yield f"{pooling}: cosine of the paraphrase less that of the other text", gap


def count_the_parameters(encoder: SentenceEncoder) -> Rows:
    """Where are MiniLM's 22.7 million parameters? Guess the share of the word embeddings, and of
    attention and feed-forward within a layer, before you count.

    Word embeddings: V * D. A layer's attention: 4 D^2; its feed-forward: 8 D^2, as F = 4 D.
    """
    bert = encoder.bert
    whole = sum(p.numel() for p in bert.parameters())
    for name in ("embeddings.word", "layers", "layers.0.attention", "layers.0.feed_forward"):
        part = sum(p.numel() for p in bert.get_submodule(name).parameters())
        yield f"{name}, in % of all", 100 * part / whole


def encode_twice_with_dropout(encoder: SentenceEncoder) -> Rows:
    """SimCSE (Gao et al. 2021, section 3, arXiv:2104.08821) makes two vectors of one text by two
    draws of dropout. How near are they, and how near is another text? At which rate of dropout
    would the pair no longer be nearer than the other text?
    """
    bert = encoder.bert.train()
    ids, mask = rows_of(encoder)
    for rate in (0.0, 0.1, 0.5):
        torch.manual_seed(0)
        set_dropout(bert, rate)
        one, two = (pool(bert(ids, mask), Padded(mask), "mean") for _ in range(2))
        yield f"dropout {rate}: cosine of the same text", cosine(one[0], two[0])
        yield f"dropout {rate}: cosine of the other text", cosine(one[0], two[1])


def divide_by_what(encoder: SentenceEncoder) -> Rows:
    """Split a batch of four texts into batches of three and one. `forward_backward` divides every
    loss by the number of targets in all batches of the step. How far is its gradient from that of
    the one large batch? And how far is the mean of the two batches' mean losses?
    """
    torch.manual_seed(0)
    task = SentenceClassification("mood", ("bad", "good"))
    model, [whole] = lesson(task, encoder, LABELLED)
    _, uneven = lesson(task, encoder, LABELLED, size=3)
    settings = Settings()
    mixer = LossMixer([task], settings)

    def gradient(*steps: Sequence[Batch]) -> Tensor:
        """The mean of the gradients of some steps."""
        model.zero_grad()
        for batches in steps:
            forward_backward(batches, model, model, mixer, [task], settings)
        own = model.heads[task.name].parameters()
        return torch.cat([p.grad.flatten() for p in own if p.grad is not None]) / len(steps)

    large = gradient([whole])
    for name, steps in (
        ("one division for the step", [uneven]),
        ("mean of means", [[batch] for batch in uneven]),
    ):
        apart = (gradient(*steps) - large).norm() / large.norm()
        yield f"{name}: distance from the large batch's gradient", apart.item()


def look_at_the_row_of_pad(encoder: SentenceEncoder) -> Rows:
    """Train on padded rows: what is the gradient of [PAD]'s word embedding? And if the table is
    also the output layer of masked-word prediction?

    Zero in the first case, by padding_idx, although its rows are computed. In the second it is not:
    the softmax over the vocabulary pushes every word that was not there down.
    """
    ids, mask = rows_of(encoder)
    table = encoder.bert.embeddings.word.weight
    head = SentenceHead(encoder.bert.config, 2)
    logits = head(encoder.bert(ids, mask), Padded(mask))
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert table.grad is not None
    yield "a class of the sentence: gradient of [PAD]'s row", table.grad[0].norm().item()
    yield "and of [CLS]'s", table.grad[101].norm().item()
    table.grad = None
    hidden = encoder.bert(ids[mask], layout=Packed(mask.sum(1).tolist()))
    F.cross_entropy(hidden @ table.T, ids[mask]).backward()
    assert table.grad is not None
    yield "the word at each token: gradient of [PAD]'s row", table.grad[0].norm().item()


EXERCISES: dict[str, Exercise] = {
    "Leave out the root": leave_out_the_root,
    "Freeze layers": freeze_layers,
    "Add a relative bias": add_a_relative_bias,
    "Forget the mask": forget_the_mask,
    "Forget the positions": forget_the_positions,
    "Change the pooling": change_the_pooling,
    "Count the parameters": count_the_parameters,
    "Encode twice with dropout": encode_twice_with_dropout,
    "Divide by what?": divide_by_what,
    "Look at the row of [PAD]": look_at_the_row_of_pad,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one exercise, or list them all. Returns the exit status, as `run_program`."""
    parser = argparse.ArgumentParser(prog="python -m tools.exercises", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("number", nargs="?", type=int, help="1 to 10; all are listed without it")
    number = parser.parse_args(arguments).number

    def program() -> None:
        if number is None:
            for i, title in enumerate(EXERCISES, start=1):
                print(f"{i:>2}  {title}")
            return
        if not 1 <= number <= len(EXERCISES):
            raise InputError(f"there is no exercise {number}: give 1 to {len(EXERCISES)}")
        exercise = list(EXERCISES.values())[number - 1]
        rows = list(exercise(SentenceEncoder.from_pretrained("minilm")))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{name:<{width}}  {value:>9.4g}")

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
