"""Vectors of first tokens: the last layer leaves out the others, and no bit of a vector changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minibert import SentenceEncoder
from minibert.config import BertConfig
from minibert.fast import inference_copy, speed_up
from minibert.fast.first import first_states, has_plain_last_layer
from minibert.heads import pool
from minibert.layout import Packed
from minibert.model import Bert, Layer
from minibert.precision import computes_bfloat16

LENGTHS = (2, 3, 3, 7, 15, 16, 16, 33, 64, 65, 120)
TEXTS = ["a", "b c", "hello world", *("to be or not to be, " * count for count in (1, 3, 8, 25))]
PRECISIONS = [
    "float32",
    pytest.param("bfloat16", marks=pytest.mark.skipif(not computes_bfloat16(), reason="no bf16")),
]


@pytest.fixture(autouse=True)
def on_one_thread(one_thread: None) -> None:
    """In bfloat16, bits depend on the number of threads."""


def last(bert: Bert) -> Layer:
    layer = bert.layers[-1]
    assert isinstance(layer, Layer)
    return layer


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("lengths", [LENGTHS, (5,), (90,)], ids=str)
def test_first_tokens_have_the_bits_of_the_whole_layer(
    minilm: Path, precision: str, lengths: tuple[int, ...]
) -> None:
    bert = inference_copy(Bert.from_pretrained(minilm), bfloat16=precision == "bfloat16")
    assert isinstance(bert, Bert)
    input_ids, layout = torch.randint(1000, 30000, (sum(lengths),)), Packed(lengths)
    with torch.inference_mode():
        assert has_plain_last_layer(bert)
        whole = pool(bert(input_ids, layout=layout), layout, "cls")
        assert torch.equal(first_states(bert, input_ids, layout), whole)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_text_has_the_same_bits_alone_and_among_others(minilm: Path, precision: str) -> None:
    encoder = SentenceEncoder.from_pretrained(
        minilm, device="cpu", pooling="cls", precision=precision
    )
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    for budget in (20, 1024):
        assert np.array_equal(encoder.encode(TEXTS, batch_tokens=budget), alone)


def test_what_follows_attention_sees_first_tokens_only(tiny_config: BertConfig) -> None:
    bert = inference_copy(Bert(tiny_config).eval())
    assert isinstance(bert, Bert)
    seen = []

    def norm(input: Tensor) -> Tensor:
        seen.append(tuple(input.shape))
        return input

    with torch.inference_mode():
        assert has_plain_last_layer(bert)
        last(bert).feed_forward_norm.forward = norm  # type: ignore[method-assign]
        first_states(bert, torch.arange(1, 13), Packed([5, 4, 3]))
    assert seen == [(3, tiny_config.hidden_size)]


class OwnLayer(Layer):
    """A user's layer, which may do anything."""


def replaced(bert: Bert) -> None:
    last(bert).__class__ = OwnLayer


def hooked(bert: Bert) -> None:
    last(bert).feed_forward.output.register_forward_hook(lambda *_: None)


def hooked_model(bert: Bert) -> None:
    bert.register_forward_pre_hook(lambda *_: None)


def patched_attention(bert: Bert) -> None:
    last(bert).attention.forward = lambda x, layout: x  # type: ignore[method-assign, assignment]


def patched_norm(bert: Bert) -> None:
    last(bert).attention_norm.forward = lambda x: x.mean(0)  # type: ignore[method-assign]


def without_layers(bert: Bert) -> None:
    bert.layers = nn.ModuleList()


CHANGES = [replaced, hooked, hooked_model, patched_attention, patched_norm, without_layers]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_was_changed_is_computed_in_whole(
    tiny_config: BertConfig, change: Callable[[Bert], None]
) -> None:
    bert = Bert(tiny_config).eval()
    assert has_plain_last_layer(inference_copy(bert))
    change(bert)
    assert not has_plain_last_layer(inference_copy(bert))


def test_attention_in_groups_has_the_context_that_its_forward_uses(
    tiny_config: BertConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card, where sentences of similar length share a call; here `drops` stands in for it."""
    attention = last(Bert(tiny_config)).attention
    speed_up(attention)
    attention.dropout.p = 1e-9  # which drops nothing
    attention.train()
    shapes = []
    attend = attention.attend
    monkeypatch.setattr(
        attention, "attend", lambda q, *more: shapes.append(q.shape[:2]) or attend(q, *more)
    )
    layout, x = Packed([3, 5, 9]), torch.randn(17, tiny_config.hidden_size)
    context = attention.context(x, layout)
    assert shapes == [(3, 16)]
    torch.testing.assert_close(attention(x, layout), attention.output(context))
    torch.testing.assert_close(context, attention.eval().context(x, layout))
