"""The encoder against itself: two layouts, and what must make no difference.

Evidence: what holds for any weights, checked on a small BERT with random ones. More such
properties, and gradients by finite differences: tests/test_properties.py. Against another
implementation: tests/parity. The fast modules: tests/test_fast.py.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from minibert import Bert, BertConfig, Packed, Padded
from minibert.heads import POOLINGS, pool
from tools.parity import shake

LENGTHS = [5, 24, 1, 7, 7, 12, 2, 7]
# absolute; values reach 4, where a float32 step is 2.4e-7
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-13}
Batch = tuple[list[Tensor], Tensor, Tensor, Tensor]


@pytest.fixture(params=BOUNDS, ids=str)
def bert(request: pytest.FixtureRequest, tiny_config: BertConfig) -> Bert:
    """A small BERT in eval mode. Its weights spread by BERT's own 0.02 in float32, and by 0.2 in
    float64.

    Wide weights make attention far from even. In float32 they would also make any layout wrong by
    up to 2.1e-6 (measured against float64), which is more than the bound. So they are for float64.
    """
    std = 0.02 if request.param == torch.float32 else 0.2
    return shake(Bert(replace(tiny_config, initializer_range=std)), std).to(request.param).eval()


def assert_close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=BOUNDS[first.dtype])


@pytest.fixture
def batch(tiny_config: BertConfig) -> Batch:
    """The sentences as a list; then input_ids, attention_mask and token_type_ids of all of them.

    The padding is random words.
    """
    sentences = [torch.randint(1, tiny_config.vocab_size, (length,)) for length in LENGTHS]
    input_ids = pad_sequence(sentences, batch_first=True)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    input_ids = torch.where(
        mask, input_ids, torch.randint_like(input_ids, 1, tiny_config.vocab_size)
    )
    return sentences, input_ids, mask, torch.randint_like(input_ids, 2)


def gradients(bert: Bert, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter but the pooler's, which `forward` does not use."""
    named = {name: p for name, p in bert.named_parameters() if not name.startswith("pooler.")}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_same_gradients(
    first: dict[str, Tensor], second: dict[str, Tensor], bounds: dict[torch.dtype, float] = BOUNDS
) -> None:
    """Each within the bound times the largest gradient: a float's error grows with what was
    summed."""
    bound = bounds[next(iter(first.values())).dtype]
    largest = max(gradient.abs().max().item() for gradient in first.values())
    for name, gradient in first.items():
        difference = (gradient - second[name]).abs().max().item()
        assert difference <= bound * largest, f"{name}: {difference / largest:.2e}"


def test_packed_equals_padded(bert: Bert, batch: Batch) -> None:
    """Every hidden state, all three poolings, and the gradient of every parameter."""
    _, input_ids, mask, types = batch
    layouts = bert.layout(input_ids, mask), Packed(LENGTHS)
    padded = bert.hidden_states(input_ids, mask, types)
    packed = bert.hidden_states(input_ids[mask], token_type_ids=types[mask], layout=layouts[1])
    assert len(padded) == len(packed) == bert.config.num_hidden_layers + 1
    for one, other in zip(padded, packed, strict=True):
        assert_close(one[mask], other)
    states = [padded[-1], packed[-1]]
    vectors = [
        torch.stack([pool(x, layout, p) for p in POOLINGS])
        for x, layout in zip(states, layouts, strict=True)
    ]
    assert_close(*vectors)
    weights = torch.randn_like(vectors[0])
    assert_same_gradients(*(gradients(bert, (v * weights).sum()) for v in vectors))


def test_hidden_states_and_probabilities_are_those_of_the_forward_pass(
    bert: Bert, batch: Batch
) -> None:
    """Each layer done again from its recorded probabilities, in the paper's own order, gives the
    recorded states."""
    _, input_ids, mask, types = batch
    states = bert.hidden_states(input_ids, mask, types)
    probabilities = bert.attention_probabilities(input_ids, mask, types)
    torch.testing.assert_close(states[-1], bert(input_ids, mask, types), rtol=0, atol=0)
    assert len(probabilities) == len(bert.layers)
    for i, p in enumerate(probabilities):
        assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
        assert torch.all(p.masked_select(~mask[:, None, None, :]) == 0)
        weights = dict(bert.layers[i].named_parameters())

        def dense(name: str, x: Tensor, weights: dict[str, Any] = weights) -> Tensor:
            return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        def norm(name: str, x: Tensor, weights: dict[str, Any] = weights) -> Tensor:
            x = (x - x.mean(-1, keepdim=True)) / (
                x.var(-1, correction=0, keepdim=True) + 1e-12
            ).sqrt()
            return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

        heads = dense("attention.value", states[i]).unflatten(-1, (4, 8)).transpose(1, 2)
        context = (p @ heads).transpose(1, 2).flatten(-2)
        x = norm("attention_norm", states[i] + dense("attention.output", context))
        inner = dense("feed_forward.intermediate", x)
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = norm("feed_forward_norm", x + dense("feed_forward.output", inner))
        assert_close(x[mask], states[i + 1][mask])


def test_what_stands_in_the_padding_changes_nothing(bert: Bert, batch: Batch) -> None:
    """Neither values nor gradients."""
    _, input_ids, mask, types = batch
    results = [bert(ids, mask, types)[mask] for ids in (input_ids, torch.where(mask, input_ids, 7))]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    weights = torch.randn_like(results[0])
    assert_same_gradients(*(gradients(bert, (result * weights).sum()) for result in results))


def test_holes_in_the_mask_count_as_positions_and_as_nothing_else(bert: Bert) -> None:
    """A masked token in the middle may be any word. The ones behind it keep their positions."""
    mask = torch.tensor([[0, 1, 1, 0, 1, 1]])
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    hidden = bert(ids, mask)
    changed = bert(torch.tensor([[50, 6, 7, 51, 9, 10]]), mask)
    torch.testing.assert_close(hidden[mask.bool()], changed[mask.bool()], rtol=0, atol=0)
    closed_up = bert(ids[mask.bool()][None])
    assert (hidden[mask.bool()] - closed_up[0]).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fully_masked_sentence_harms_nobody(
    tiny_config: BertConfig, batch: Batch, dtype: torch.dtype
) -> None:
    """No NaN anywhere, forward or backward, and the other sentences' gradients are what they are
    without it."""
    _, input_ids, mask, _ = batch
    bert, rows = Bert(tiny_config).to(dtype).eval(), [1, 3, 4]
    masked = mask.clone()
    masked[0] = False
    results = []
    for chosen in ([0, *rows], rows):
        hidden = bert(input_ids[chosen], masked[chosen])
        assert hidden.isfinite().all()
        vectors = pool(hidden, Padded(masked[chosen]), "mean")
        results.append((vectors[-3:], gradients(bert, vectors.float().square().sum())))
    for _, found in results:
        assert all(gradient.isfinite().all() for gradient in found.values())
    bound = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=4 * bound)
    assert_same_gradients(results[0][1], results[1][1], {dtype: bound})


@pytest.fixture
def dropouts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The probability of every dropout that PyTorch applies, in order."""
    applied: list[float] = []
    real = F.dropout

    def record(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        applied.extend([p] * (training and p > 0))
        return real(x, p, training, inplace)

    monkeypatch.setattr(F, "dropout", record)
    return applied


def test_dropout_stands_where_bert_has_it_and_only_in_training(
    tiny_config: BertConfig, batch: Batch, dropouts: list[float]
) -> None:
    """After the embeddings; in each layer on the probabilities, after attention and after the
    feed-forward.

    As in Google's modeling.py: `embedding_postprocessor`, `attention_layer`, `transformer_model`.
    """
    _, input_ids, mask, _ = batch
    bert = Bert(replace(tiny_config, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.125))
    padded = input_ids, bert.layout(input_ids, mask)
    packed = input_ids[mask][:14], Packed([7, 7])
    for ids, layout in (padded, packed):
        dropouts.clear()
        random = [bert.train()(ids, layout=layout) for _ in range(2)]
        assert dropouts == 2 * [0.25, *[0.125, 0.25, 0.25] * 3]
        dropouts.clear()
        steady = [bert.eval()(ids, layout=layout) for _ in range(2)]
        assert not dropouts
        assert not torch.equal(*random)
        assert torch.equal(*steady)


def test_without_dropout_training_computes_what_evaluation_does(
    tiny_config: BertConfig, batch: Batch
) -> None:
    _, input_ids, mask, _ = batch
    bert = Bert(replace(tiny_config, hidden_dropout_prob=0, attention_probs_dropout_prob=0))
    assert torch.equal(bert.train()(input_ids, mask), bert.eval()(input_ids, mask))


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.25])
def test_every_norm_takes_its_epsilon_from_the_config(tiny_config: BertConfig, eps: float) -> None:
    """With weight 1 and bias 0, a norm turns a variance v into v / (v + eps)."""
    assert BertConfig().layer_norm_eps == 1e-12
    bert = Bert(replace(tiny_config, layer_norm_eps=eps)).double()
    seen: list[nn.Module] = []

    def check(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        variance = inputs[0].var(-1, correction=0)
        torch.testing.assert_close(
            output.var(-1, correction=0), variance / (variance + eps), rtol=1e-9, atol=0
        )
        seen.append(module)

    for module in bert.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(check)
    bert.eval()(torch.randint(1, tiny_config.vocab_size, (2, 5)))
    assert len(seen) == 1 + 2 * tiny_config.num_hidden_layers


def test_fresh_weights_are_the_originals(tiny_config: BertConfig) -> None:
    """Normal with the config's std, biases 0, norms 1 and 0, the padding word 0."""
    bert = Bert(replace(tiny_config, hidden_size=256, initializer_range=0.02))
    for name, parameter in bert.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            rows = parameter[1:] if name == "embeddings.word.weight" else parameter
            assert rows.std().item() == pytest.approx(0.02, rel=0.15), name  # 512 values at least
            assert abs(rows.mean().item()) < 0.005, name
    assert not bert.embeddings.word.weight[0].any()


SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
BAD_SIZES = (0, -1, 2.0, "8", None, True, 2**31)
BAD_VALUES: list[tuple[str, Any]] = [
    *(
        (size, value)
        for size in (*SIZES, "max_position_embeddings", "type_vocab_size")
        for value in BAD_SIZES
    ),
    *(
        (p, value)
        for p in ("hidden_dropout_prob", "attention_probs_dropout_prob")
        for value in (-0.1, 1, "0.1", None)
    ),
    *(
        (e, v)
        for e in ("layer_norm_eps", "initializer_range")
        for v in (0, -1e-12, 1, float("nan"), "1e-12", None)
    ),
    *(("pad_token_id", value) for value in (-1, 30522, 0.0, None)),
    *(("hidden_act", value) for value in ("swish", "", None)),
    ("hidden_size", 770),  # no multiple of 12 heads
]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_a_bad_value_in_the_config_is_refused_by_its_fields_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} .*{re.escape(repr(value))}"):
        BertConfig(**{field: value})


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="hidden_act 'silu' is not one of gelu, gelu_new, gelu_pytorch_tanh, relu"
    ):
        BertConfig(hidden_act="silu")


def test_a_sentence_longer_than_the_model_is_refused(bert: Bert) -> None:
    ids = torch.ones(2, 25, dtype=torch.long)
    methods: list[Callable[..., Any]] = [bert, bert.hidden_states, bert.attention_probabilities]
    for method in methods:
        with pytest.raises(ValueError, match="25 tokens is longer than the model's 24 positions"):
            method(ids)
    with pytest.raises(ValueError, match="25 tokens is longer than the model's 24 positions"):
        bert(ids.flatten(), layout=Packed([25, 25]))
    assert bert(ids[:, :24]).shape == (2, 24, 32)
    assert bert(ids.flatten()[:48], layout=Packed([24, 24])).shape == (48, 32)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 1), (2, 4), (2, 5, 1)])
def test_a_mask_or_token_types_of_another_shape_are_refused(
    bert: Bert, shape: tuple[int, ...]
) -> None:
    """Broadcasting would silently give wrong numbers."""
    ids, other = torch.ones(2, 5, dtype=torch.long), torch.ones(shape, dtype=torch.long)
    with pytest.raises(
        ValueError, match=rf"\(2, 5\) do not fit token_type_ids of {re.escape(str(shape))}"
    ):
        bert(ids, None, other)
    message = (
        r"\(B, S\)" if len(shape) != 2 else rf"\(2, 5\) do not fit .* of {re.escape(str(shape))}"
    )
    with pytest.raises(ValueError, match=message):
        bert(ids, other)
    with pytest.raises(ValueError, match=r"\(2, 5\) do not fit .* of \(10,\)"):
        bert(ids, layout=Packed([5, 5]))


@pytest.mark.parametrize("packed", [False, True])
def test_the_layers_can_be_run_in_pieces(bert: Bert, batch: Batch, packed: bool) -> None:
    _, input_ids, mask, types = batch
    if packed:
        input_ids, types, layout = input_ids[mask], types[mask], Packed(LENGTHS)
    else:
        layout = bert.layout(input_ids, mask)
    whole = bert(input_ids, token_type_ids=types, layout=layout)
    embedded = bert.embeddings(input_ids, types, layout)
    assert torch.equal(bert.run(embedded, layout), whole)
    for split in range(4):
        half = bert.run(embedded, layout, 0, split)
        assert torch.equal(bert.run(half, layout, split), whole)


def test_device_and_dtype_are_those_of_the_weights(bert: Bert) -> None:
    weight = bert.layers[0].attention.query.weight
    assert (bert.device, bert.dtype) == (weight.device, weight.dtype)
    assert bert.bfloat16().dtype == torch.bfloat16
    assert bert.to("meta").device == torch.device("meta")
