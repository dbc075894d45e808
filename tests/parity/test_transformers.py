"""Our encoder against transformers.BertModel, run side by side on the same weights.

Evidence: transformers opens a folder that our `save_pretrained` wrote, so the values below also say that what we save
is what others read. Bounds on values are absolute, and hold at real positions: what stands in the padding means
nothing. MiniLM's hidden states reach 10, where one float32 step is 1e-6; measured: up to 7.2e-6 (after layer 5), and
our own and transformers' distance from the same model in float64 is as large, 7.0e-6 and 6.8e-6.
"""

import copy
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BertModel

from minibert import Bert, BertConfig, Packed, Padded
from minibert.model import ACTIVATIONS
from minibert.tokenizer import Tokenizer
from minibert.weights import checkpoint_name
from tests.conftest import shake

BOUND = 1e-5
LONGEST = 256


@dataclass(frozen=True)
class Batch:
    """Sentences of token ids, in both layouts."""

    sentences: list[Tensor]

    @property
    def input_ids(self) -> Tensor:  # (B, S)
        return pad_sequence(self.sentences, batch_first=True)

    @property
    def mask(self) -> Tensor:  # (B, S)
        return pad_sequence([torch.ones_like(ids) for ids in self.sentences], batch_first=True).bool()

    @property
    def packed_ids(self) -> Tensor:  # (N)
        return torch.cat(self.sentences)

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.sentences]


def both(bert: Bert, folder: Path, attention: str = "eager") -> tuple[Bert, BertModel]:
    """The model, saved by us to a folder, and what transformers makes of that folder."""
    bert.save_pretrained(folder)
    theirs, problems = BertModel.from_pretrained(folder, attn_implementation=attention, output_loading_info=True)
    assert not any(problems.values()), problems
    return bert.eval(), theirs.eval()


@pytest.fixture(scope="module")
def real(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bert, BertModel]]:
    folder = tmp_path_factory.mktemp("minilm")
    yield both(Bert.from_pretrained(minilm), folder)
    shutil.rmtree(folder)  # 90 MB


@pytest.fixture(scope="module")
def batches(minilm: Path, sentences: list[str]) -> list[Batch]:
    """Five batches of 24 real texts, each batch with texts of 1 to 4 tokens; the longest of all has 256.

    A text too short for its place is joined by the next one; what is too long loses its end.
    """
    words = iter([tokens.ids[1:-1] for tokens in Tokenizer.from_folder(minilm).encode(sentences)])
    lengths = sorted(round(LONGEST ** (i / 119)) for i in range(120))  # log-uniform
    texts = []
    for length in lengths:
        ids: list[int] = []
        while len(ids) < length - 2:
            ids += next(words)
        texts.append(torch.tensor([101, *ids[: length - 2], 102][:length]))
    shortest, rest = texts[:20], texts[20:]
    return [Batch(shortest[i::5] + rest[20 * i : 20 * (i + 1)][::-1]) for i in range(5)]


def test_the_real_texts_are_as_many_and_as_long_as_claimed(batches: list[Batch]) -> None:
    lengths = [length for batch in batches for length in batch.lengths]
    assert len(lengths) == 120
    assert (min(lengths), max(lengths)) == (1, LONGEST)
    assert all(min(batch.lengths) == 1 and max(batch.lengths) > 5 for batch in batches)


@pytest.fixture(scope="module")
def expected(real: tuple[Bert, BertModel], batches: list[Batch]) -> list[Any]:
    with torch.inference_mode():
        return [real[1](b.input_ids, b.mask.long(), output_hidden_states=True, output_attentions=True) for b in batches]


@pytest.mark.parametrize("packed", [False, True])
def test_every_hidden_state_of_minilm(
    real: tuple[Bert, BertModel], batches: list[Batch], expected: list[Any], packed: bool
) -> None:
    """Within 1e-5 after the embeddings and after each of six layers, on 120 real texts of 1 to 256 tokens."""
    for batch, theirs in zip(batches, expected, strict=True):
        with torch.inference_mode():
            if packed:
                ours = real[0].hidden_states(batch.packed_ids, Packed(batch.lengths))
            else:
                ours = [x[batch.mask] for x in real[0].hidden_states(batch.input_ids, batch.mask)]
        assert len(ours) == len(theirs.hidden_states) == 7
        for x, y in zip(ours, theirs.hidden_states, strict=True):
            torch.testing.assert_close(x, y[batch.mask], rtol=0, atol=BOUND)


def test_every_attention_probability_of_minilm(
    real: tuple[Bert, BertModel], batches: list[Batch], expected: list[Any]
) -> None:
    """Within 1e-5 for every layer, head and real query, over all keys; masked keys have exactly 0 on both sides."""
    for batch, theirs in zip(batches, expected, strict=True):
        with torch.inference_mode():
            ours = real[0].attention_probabilities(batch.input_ids, batch.mask)
        assert len(ours) == len(theirs.attentions) == 6
        for x, y in zip(ours, theirs.attentions, strict=True):
            x, y = x.transpose(1, 2)[batch.mask], y.transpose(1, 2)[batch.mask]  # (B, H, S, S) -> (N, H, S)
            torch.testing.assert_close(x, y, rtol=0, atol=BOUND)


def test_in_float64_minilm_differs_in_the_last_digits_only(real: tuple[Bert, BertModel], batches: list[Batch]) -> None:
    """What differs above is float32's rounding: in float64 hidden states agree to 1e-12, and all gradients to 1e-11."""
    batch = batches[2]
    ours, theirs = (copy.deepcopy(model).double() for model in real)
    reference = theirs(batch.input_ids, batch.mask.long(), output_hidden_states=True).hidden_states
    weights = torch.randn(sum(batch.lengths), 384, dtype=torch.float64)
    expected = gradients(theirs, (reference[-1][batch.mask] * weights).sum())
    padded = [x[batch.mask] for x in ours.hidden_states(batch.input_ids, batch.mask)]
    packed = ours.hidden_states(batch.packed_ids, Packed(batch.lengths))
    for one, other, x in zip(padded, packed, reference, strict=True):
        torch.testing.assert_close(one, x[batch.mask], rtol=0, atol=1e-12)
        torch.testing.assert_close(other, x[batch.mask], rtol=0, atol=1e-12)
    assert_same_gradients(gradients(ours, (packed[-1] * weights).sum()), expected, 1e-11)


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter that the loss depends on, by the checkpoint's names."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    if isinstance(model, Bert):
        names = tuple(map(checkpoint_name, names))
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], bound: float) -> None:
    """The largest difference of a parameter's gradients, over the largest of these gradients, is within the bound.

    A key's bias adds the same to all scores of a query, which softmax does not see: its true gradient is 0, and what
    either side finds is rounding. It is held against the largest gradient of the whole model.
    """
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        scale = largest if name.endswith("self.key.bias") else gradient.abs().max().item()
        difference = (ours[name] - gradient).abs().max().item()
        assert difference <= bound * scale, f"{name}: {difference / scale:.2e} of {scale:.2e}"


def random_config(number: int) -> BertConfig:
    draw = random.Random(number)
    heads, width = draw.choice([1, 2, 3, 4, 6]), draw.choice([1, 4, 7, 8, 16])
    return BertConfig(
        vocab_size=draw.randint(20, 200),
        hidden_size=max(heads * width, 4),
        num_hidden_layers=draw.randint(1, 4),
        num_attention_heads=heads if heads * width >= 4 else 1,
        intermediate_size=draw.randint(1, 96),
        max_position_embeddings=draw.randint(12, 40),
        type_vocab_size=draw.randint(1, 3),
        hidden_act=list(ACTIVATIONS)[number // 2 % len(ACTIVATIONS)],
        layer_norm_eps=draw.choice([1e-12, 1e-5, 1e-3]),
        pad_token_id=draw.choice([0, 0, 3]),
    )


@pytest.mark.parametrize("number", range(30))
def test_random_configs(number: int, tmp_path: Path) -> None:
    """Hidden states and pooler within 1e-5, and the gradient of every parameter, in both layouts.

    Odd numbers have sentences of one length and no mask, even ones padding; every third has no token types.
    """
    torch.manual_seed(number)
    config = random_config(number)
    attention = "sdpa" if number % 5 < 2 else "eager"
    ours, theirs = both(shake(Bert(config), 0.1), tmp_path, attention)
    longest = config.max_position_embeddings
    lengths = [longest - 1] * 4 if number % 2 else [longest, 1, 5, *torch.randint(1, longest, (4,)).tolist()]
    batch = Batch([torch.randint(config.vocab_size, (length,)) for length in lengths])
    mask = None if number % 2 else batch.mask
    types = torch.randint_like(batch.input_ids, config.type_vocab_size) if number % 3 else None

    reference = theirs(batch.input_ids, None if mask is None else mask.long(), types, output_hidden_states=True)
    weights, pooler_weights = (
        torch.randn(sum(lengths), config.hidden_size),
        torch.randn(len(lengths), config.hidden_size),
    )
    hidden, pooled = reference.last_hidden_state[batch.mask], reference.pooler_output
    expected = gradients(theirs, (hidden * weights).sum() + (pooled * pooler_weights).sum())
    assert len(expected) == len(list(ours.parameters()))

    packed_types = None if types is None else types[batch.mask]
    layout = Packed(lengths)
    packed_states = ours.hidden_states(batch.packed_ids, layout, packed_types)
    padded_states = ours.hidden_states(batch.input_ids, mask, types)
    firsts = padded_states[-1][:, 0], layout.first(packed_states[-1])
    for states, first in zip(([x[batch.mask] for x in padded_states], packed_states), firsts, strict=True):
        for x, y in zip(states, reference.hidden_states, strict=True):
            torch.testing.assert_close(x, y[batch.mask], rtol=0, atol=BOUND)
        assert ours.pooler is not None
        vectors = ours.pooler(first)
        torch.testing.assert_close(vectors, pooled, rtol=0, atol=BOUND)
        found = gradients(ours, (states[-1] * weights).sum() + (vectors * pooler_weights).sum())
        assert_same_gradients(found, expected, BOUND)


def test_dropout_drops_what_transformers_drops(tiny_config: BertConfig, tmp_path: Path) -> None:
    """In training, from the same random state: both draw the same masks in the same places, so values are the same.

    One mask more, less, elsewhere, of another chance or another shape would shift all that is drawn after it.
    """
    config = replace(tiny_config, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    ours, theirs = both(shake(Bert(config), 0.1), tmp_path, "sdpa")
    ids, mask = torch.randint(1, config.vocab_size, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    weights = torch.randn(int(mask.sum()), config.hidden_size)
    steady = ours(ids, mask)
    results = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        hidden = model(ids, mask) if model is ours else model(ids, mask).last_hidden_state
        results.append((hidden, torch.rand(1), gradients(model, (hidden[mask.bool()] * weights).sum())))
    assert (results[0][0] - steady).abs().max() > 0.1
    assert torch.equal(results[0][1], results[1][1])  # as many random numbers were drawn
    torch.testing.assert_close(results[0][0][mask.bool()], results[1][0][mask.bool()], rtol=0, atol=BOUND)
    assert_same_gradients(results[0][2], results[1][2], BOUND)


@pytest.mark.parametrize("types", [False, True])
def test_holes_and_left_padding(tiny_config: BertConfig, tmp_path: Path, types: bool) -> None:
    """A mask with zeros anywhere means the same to both: those columns are not looked at, and count as positions."""
    ours, theirs = both(shake(Bert(tiny_config), 0.1), tmp_path)
    ids, mask = torch.randint(1, tiny_config.vocab_size, (6, 24)), torch.rand(6, 24) < 0.5
    mask[:, 7] = True
    token_types = torch.randint_like(ids, 2) if types else None
    expected = theirs(ids, mask.long(), token_types).last_hidden_state[mask]
    torch.testing.assert_close(ours(ids, Padded(mask), token_types)[mask], expected, rtol=0, atol=BOUND)
