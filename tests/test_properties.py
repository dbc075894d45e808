"""Properties that hold for any weights and any sentences, tried on those that hypothesis draws.

Evidence: none of them needs another implementation. The model is small, random and in float64, so
what is equal in mathematics is equal to 1e-12 here; hidden states reach 4. hypothesis draws the
same examples in every run.
"""

from functools import cache
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

from minibert import Bert, BertConfig, Packed, Padded
from minibert.config import ACTIVATIONS
from minibert.heads import POOLINGS, pool
from tools.parity import Batch, shake

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=16,
    initializer_range=0.2,
)
LONGEST = CONFIG.max_position_embeddings

ids = st.integers(0, CONFIG.vocab_size - 1)
sentences = st.lists(ids, min_size=1, max_size=LONGEST).map(torch.tensor)
batches = st.lists(sentences, min_size=1, max_size=6).map(Batch)


@cache
def small_bert() -> Bert:
    """In eval mode and float64, with weights wide enough that attention is far from even."""
    torch.manual_seed(0)
    return shake(Bert(CONFIG), 0.2).double().eval()


def assert_close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def each_alone(batch: Batch) -> list[Tensor]:
    """What the model makes of each sentence without any other and without padding: (L, D) each."""
    return [small_bert()(sentence[None])[0] for sentence in batch.sentences]


@given(batches)
@torch.no_grad()
def test_packed_and_padded_are_each_sentence_alone(batch: Batch) -> None:
    """Hidden states, and sentence vectors in each pooling."""
    padded, packed = Padded(batch.mask), Packed(batch.lengths)
    inputs = (batch.input_ids, padded), (batch.packed_ids, packed)
    states = [small_bert()(ids, layout=layout) for ids, layout in inputs]
    expected = each_alone(batch)
    assert_close(states[0][batch.mask], torch.cat(expected))
    assert_close(states[1], torch.cat(expected))
    for pooling in POOLINGS:
        for x, layout in zip(states, (padded, packed), strict=True):
            vectors = pool(x, layout, pooling)
            for vector, state in zip(vectors, expected, strict=True):
                assert_close(vector, pool(state, Packed([len(state)]), pooling)[0])


@given(batches, st.integers(0, LONGEST), st.lists(ids, min_size=6 * LONGEST, max_size=6 * LONGEST))
@torch.no_grad()
def test_padding_of_any_width_and_any_words_changes_nothing(
    batch: Batch, more: int, words: list[int]
) -> None:
    width = min(batch.input_ids.size(1) + more, LONGEST)
    mask = torch.arange(width) < torch.tensor(batch.lengths)[:, None]
    filled = torch.tensor(words)[: mask.numel()].view(mask.shape)
    filled[mask] = batch.packed_ids
    assert_close(
        small_bert()(filled, mask)[mask], small_bert()(batch.input_ids, batch.mask)[batch.mask]
    )


@given(batches, st.randoms(use_true_random=False))
@torch.no_grad()
def test_a_permuted_batch_gives_the_permuted_result(batch: Batch, dice: Random) -> None:
    order = list(range(len(batch.sentences)))
    dice.shuffle(order)
    shuffled = Batch([batch.sentences[i] for i in order])
    padded = small_bert()(batch.input_ids, batch.mask)[order]
    assert_close(
        small_bert()(shuffled.input_ids, shuffled.mask)[shuffled.mask], padded[shuffled.mask]
    )
    packed = small_bert()(batch.packed_ids, layout=Packed(batch.lengths)).split(batch.lengths)
    assert_close(
        small_bert()(shuffled.packed_ids, layout=Packed(shuffled.lengths)),
        torch.cat([packed[i] for i in order]),
    )


@given(batches, st.integers(2, 4))
@torch.no_grad()
def test_a_sentence_given_twice_gives_the_same_twice(batch: Batch, times: int) -> None:
    """Also where its copies stand together, and so share one attention call."""
    repeated = Batch([sentence for sentence in batch.sentences for _ in range(times)])
    expected = torch.cat([state for state in each_alone(batch) for _ in range(times)])
    assert_close(small_bert()(repeated.input_ids, repeated.mask)[repeated.mask], expected)
    assert_close(small_bert()(repeated.packed_ids, layout=Packed(repeated.lengths)), expected)


@given(sentences, st.data())
@torch.no_grad()
def test_one_token_of_another_type_changes_every_token(
    sentence: Tensor, data: st.DataObject
) -> None:
    """And types of 0 are what leaving them out means."""
    position = data.draw(st.integers(0, len(sentence) - 1))
    types = torch.zeros_like(sentence)
    hidden = small_bert()(sentence[None])
    assert torch.equal(small_bert()(sentence[None], None, types[None]), hidden)
    types[position] = 1
    changed = (small_bert()(sentence[None], None, types[None]) - hidden).abs().amax(-1)[0]
    assert changed.min() > 0
    assert changed[position] > 0.01


@given(sentences.filter(lambda sentence: len(sentence) > 1))
@torch.no_grad()
def test_the_order_of_words_counts_by_their_positions_alone(sentence: Tensor) -> None:
    """Words moved together with their positions keep their vectors. Words moved alone do not."""
    layout, moved = Padded(torch.ones(1, len(sentence))), Padded(torch.ones(1, len(sentence)))
    moved.positions = moved.positions.flip(0)
    hidden = small_bert()(sentence[None], layout=layout).flip(1)
    assert_close(small_bert()(sentence.flip(0)[None], layout=moved), hidden)
    assert (small_bert()(sentence.flip(0)[None], layout=layout) - hidden).abs().max() > 0.01


@given(batches)
@torch.no_grad()
def test_evaluation_is_the_same_to_the_bit_whenever_it_is_done(batch: Batch) -> None:
    """Dropout is 0.1 in the config, and takes no part; no random number is drawn."""
    before = torch.get_rng_state()
    padded, packed = Padded(batch.mask), Packed(batch.lengths)
    for ids, layout in ((batch.input_ids, padded), (batch.packed_ids, packed)):
        first, second = (small_bert()(ids, layout=layout) for _ in range(2))
        assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("activation", "packed"), [*((name, False) for name in ACTIVATIONS), ("gelu", True)]
)
def test_gradients_are_those_of_finite_differences(activation: str, packed: bool) -> None:
    """The gradient of every parameter of two layers, in float64, against (f(x + h) - f(x - h)) / 2h
    by torch.autograd.gradcheck."""
    sizes = {"vocab_size": 6, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        **sizes, intermediate_size=5, max_position_embeddings=4, hidden_act=activation
    )
    bert = shake(Bert(config, pooler=False), 0.3).double().eval()
    names, values = zip(*bert.named_parameters(), strict=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    ids = torch.tensor([[1, 2, 3, 4], [5, 1, 2, 2]])
    types = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]])
    inputs: dict = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if packed:
        inputs = {"input_ids": ids[mask], "token_type_ids": types[mask], "layout": Packed([4, 2])}

    def loss(*parameters: Tensor) -> Tensor:
        hidden = functional_call(bert, dict(zip(names, parameters, strict=True)), (), inputs)
        # Four outputs. The sine, since the sum of what leaves a norm is constant.
        return (hidden if packed else hidden[mask]).sin().sum(0)

    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-7, rtol=1e-5)
