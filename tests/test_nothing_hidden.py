"""What is fast hides nothing: a SentenceEncoder and its model behave as plain PyTorch does.

Importing changes nothing. A change of the weights is noticed, whoever makes it. Models can be
compiled, exported, quantized, copied and pickled.
"""

import copy
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from minibert import Bert, SentenceEncoder
from minibert.fast import slow_down, speed_up
from minibert.model import Layer
from tests.test_encoder import TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")

# Of 1, 2 ... 15 lengths: each list of texts is a batch.
MIXES = [["a " * i for i in range(count)] for count in range(1, 16)]


@pytest.fixture
def encoder(saved: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(saved, device="cpu")


def vectors(encoder: SentenceEncoder) -> np.ndarray:
    return encoder.encode(TEXTS, truncation="silent")


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 2e-6)  # values reach 3; other kernels


# Importing


def test_importing_changes_nothing_in_the_process() -> None:
    """No hook of optimizers or modules, and no number of threads, seed or default."""
    program = """
import torch
from torch.nn.modules import module
from torch.optim import optimizer

def state():
    return (
        len(optimizer._global_optimizer_pre_hooks),
        len(optimizer._global_optimizer_post_hooks),
        len(module._global_forward_hooks),
        len(module._global_forward_pre_hooks),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.backends.mkldnn.enabled,
        torch.initial_seed(),
        torch.get_rng_state().tolist(),
    )

torch.manual_seed(0)
torch.set_num_threads(3)
before = state()
import minibert, minibert.fast, minibert.fast.threads
assert state() == before, (before, state())
assert before[:5] == (0, 0, 0, 0, 3)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# Changes of the weights


def scaled_query(bert: Bert) -> None:
    bert.layers[0].attention.query.weight.data.mul_(3)  # type: ignore[union-attr]


def scaled_bias(bert: Bert) -> None:
    bert.layers[1].feed_forward.output.bias.data[:12] += 1  # type: ignore[union-attr]


def scaled_words(bert: Bert) -> None:
    bert.embeddings.word.weight.data.mul_(3)


def one_step(bert: Bert, fused: bool = False) -> None:
    parameters = [p for name, p in bert.named_parameters() if not name.startswith("pooler")]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=fused)
    bert(torch.tensor([[2, 5, 6, 3]])).sin().sum().backward()
    optimizer.step()


def one_fused_step(bert: Bert) -> None:
    one_step(bert, fused=True)


def other(bert: Bert) -> Bert:
    torch.manual_seed(1)
    return Bert(bert.config)


def another_checkpoint(bert: Bert) -> None:
    bert.load_state_dict(other(bert).state_dict())


def moving_average(bert: Bert) -> None:
    with torch.no_grad():
        for mine, target in zip(bert.parameters(), other(bert).parameters(), strict=True):
            mine.lerp_(target, 0.1)


def pruned(bert: Bert) -> None:
    for layer in bert.layers:
        prune.l1_unstructured(layer.attention.value, "weight", amount=0.5)


def pruned_and_then_scaled(bert: Bert) -> None:
    pruned(bert)
    bert.layers[0].attention.value.weight_orig.data.mul_(3)  # type: ignore[union-attr]


def pruned_for_good(bert: Bert) -> None:
    pruned(bert)
    for layer in bert.layers:
        prune.remove(layer.attention.value, "weight")


def parametrized(bert: Bert) -> None:
    linear = bert.layers[0].attention.key  # type: ignore[union-attr]
    parametrizations.weight_norm(linear)
    linear.parametrizations.weight.original0.data.mul_(3)


def another_layer(bert: Bert) -> None:
    torch.manual_seed(1)
    bert.layers[1] = Layer(bert.config).eval()


def another_linear_layer(bert: Bert) -> None:
    torch.manual_seed(1)
    attention = bert.layers[1].attention
    attention.value = nn.Linear(24, 24, bias=False)  # type: ignore[union-attr]


def another_parameter(bert: Bert) -> None:
    torch.manual_seed(1)
    linear = bert.layers[1].feed_forward.intermediate  # type: ignore[union-attr]
    linear.weight = nn.Parameter(torch.randn_like(linear.weight))


def there_and_back(bert: Bert) -> None:
    bert.bfloat16().float()


def with_a_hook(bert: Bert) -> None:
    bert.layers[0].register_forward_hook(lambda module, inputs, output: 2 * output)


CHANGES: list[Callable[[Bert], None]] = [
    scaled_query,
    scaled_bias,
    scaled_words,
    one_step,
    one_fused_step,
    another_checkpoint,
    moving_average,
    pruned,
    pruned_and_then_scaled,
    pruned_for_good,
    parametrized,
    another_layer,
    another_linear_layer,
    another_parameter,
    there_and_back,
    with_a_hook,
]


@pytest.mark.parametrize("taken_first", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_is_noticed(
    encoder: SentenceEncoder, saved: Path, change: Callable[[Bert], None], taken_first: bool
) -> None:
    """The vectors are bit for bit those of a fresh encoder over a model with the same change, and
    nearly those of that plain model.

    taken_first: the model is taken before the first vector is computed, and not after it.
    """
    if taken_first:
        bert = encoder.bert
        before = vectors(encoder)
    else:
        before = vectors(encoder)
        bert = encoder.bert
    change(bert)
    found = vectors(encoder)
    changed = Bert.from_pretrained(saved)
    change(changed)
    fresh = SentenceEncoder(changed, encoder.tokenizer, encoder.settings)
    assert np.array_equal(found, vectors(fresh))
    tokens = encoder.tokenizer.encode(TEXTS, "silent")
    with torch.inference_mode():
        means = [changed(torch.tensor([one.ids]))[0].mean(0) for one in tokens]
    assert np.abs(found - torch.stack(means).numpy()).max() <= 1e-5
    assert np.abs(found - before).max() > 1e-3
    assert np.array_equal(found, vectors(encoder))


def test_a_stream_notices_a_change_between_two_windows(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 1)
    before = encoder.encode("hello world")
    stream = encoder.stream(["hello world"] * 2)
    _, [first] = next(stream)
    scaled_query(encoder.bert)
    _, [second] = next(stream)
    assert np.array_equal(first, before)
    assert np.array_equal(second, encoder.encode("hello world"))
    assert np.abs(first - second).max() > 1e-3


def test_another_model_is_noticed(encoder: SentenceEncoder, saved: Path) -> None:
    before = vectors(encoder)
    encoder.bert = other(encoder.bert).eval()
    found = vectors(encoder)
    assert np.abs(found - before).max() > 0.1
    assert np.array_equal(found, vectors(SentenceEncoder(encoder.bert, encoder.tokenizer)))


def test_the_model_is_plain_whatever_was_encoded(encoder: SentenceEncoder) -> None:
    """Its classes are PyTorch's own and those of model.py, and it computes gradients."""
    vectors(encoder)
    kinds = {type(part).__module__ for part in encoder.bert.modules()}
    assert {kind for kind in kinds if not kind.startswith("torch.nn.")} == {"minibert.model"}
    hidden = encoder.bert(torch.tensor([[2, 5, 3]]))
    assert hidden.requires_grad
    assert not hidden.is_inference()


def test_a_model_made_in_inference_mode_encodes_too(encoder: SentenceEncoder) -> None:
    with torch.inference_mode():
        made = SentenceEncoder(copy.deepcopy(encoder.bert), encoder.tokenizer, encoder.settings)
        assert np.array_equal(vectors(made), vectors(encoder))


@pytest.mark.parametrize("threads", [1, 2])
def test_autocast_of_the_caller_holds(encoder: SentenceEncoder, threads: int) -> None:
    """Its vectors are those of bfloat16, and the same with one thread and with two."""
    texts = [text + extra for extra in ("", " a", " b c") for text in TEXTS]
    exact = encoder.encode(texts, batch_tokens=20, truncation="silent")
    try:
        torch.set_num_threads(threads)
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder.encode(texts, batch_tokens=20, truncation="silent")
    finally:
        torch.set_num_threads(1)
    assert 1e-3 < np.abs(found - exact).max() < 0.2
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(found, encoder.encode(texts, batch_tokens=20, truncation="silent"))
    assert np.array_equal(
        encoder.encode(texts, batch_tokens=20, truncation="silent"), exact
    )  # what autocast has cached is gone


# Copies


@pytest.mark.parametrize("taken_first", [False, True])
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))]
)
def test_a_copied_or_pickled_encoder_gives_the_same_vectors(
    encoder: SentenceEncoder,
    copied: Callable[[SentenceEncoder], SentenceEncoder],
    taken_first: bool,
) -> None:
    if taken_first:
        assert encoder.bert
    expected = vectors(encoder)
    again = copied(encoder)
    assert np.array_equal(vectors(again), expected)
    assert np.array_equal(vectors(encoder), expected)
    assert again.settings == encoder.settings
    # Each notices a change of its model. Those of a shallow copy share theirs.
    shared = again.bert is encoder.bert
    scaled_query(again.bert)
    assert np.abs(vectors(again) - expected).max() > 1e-3
    assert np.array_equal(vectors(encoder), expected) is not shared


def test_a_shallow_copy_notices_a_change_by_the_other(encoder: SentenceEncoder) -> None:
    again = copy.copy(encoder)
    before = vectors(encoder), vectors(again)
    scaled_query(again.bert)
    assert np.array_equal(vectors(encoder), vectors(again))
    assert np.abs(vectors(encoder) - before[0]).max() > 1e-3


def plain(bert: Bert) -> None:
    """As it is."""


def sped_up_and_slowed_down(bert: Bert) -> None:
    speed_up(bert)
    slow_down(bert)


@pytest.mark.parametrize("prepare", [plain, speed_up, sped_up_and_slowed_down])
def test_copied_and_pickled_models_compute_the_same(
    encoder: SentenceEncoder, prepare: Callable[[Bert], None]
) -> None:
    bert, ids = encoder.bert, torch.randint(5, 20, (8, 30))
    prepare(bert)
    expected, encoded = bert(ids), vectors(encoder)
    for again in (copy.deepcopy(bert), pickle.loads(pickle.dumps(bert))):
        assert repr(again) == repr(bert)
        assert torch.equal(again(ids), expected)
        encoder.bert = again
        assert np.array_equal(vectors(encoder), encoded)


# Compiled, exported and quantized models

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))),
    reason="torch.compile needs a C++ compiler",
)


@pytest.fixture
def fresh_compiler() -> None:
    torch._dynamo.reset()


def inputs(sentences: int = 2, positions: int = 7) -> tuple[Tensor, Tensor]:
    """Ids and a mask, (B, S) each."""
    mask = torch.arange(positions) < torch.arange(positions, positions - sentences, -1)[:, None]
    return torch.randint(5, 20, (sentences, positions)), mask.long()


@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
@torch.inference_mode()
def test_a_model_can_be_compiled_and_assigned_back(encoder: SentenceEncoder) -> None:
    """By PyTorch's own compiler, into one graph."""
    expected = vectors(encoder)
    encoder.bert.layers = encoder.bert.layers[:1]
    shallow = vectors(encoder)
    bert, (ids, mask) = encoder.bert, inputs()
    compiled = torch.compile(bert, fullgraph=True)
    found, wanted = compiled(ids, mask), bert(ids, mask)
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-6)
    encoder.bert = compiled
    assert close(vectors(encoder), shallow)
    assert np.abs(shallow - expected).max() > 0.1


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("prepare", [plain, speed_up])
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_encoder_takes_texts_of_all_lengths(
    encoder: SentenceEncoder, prepare: Callable[[Bert], None], fullgraph: bool, in_place: bool
) -> None:
    """More mixes of lengths than torch.compile would make graphs for. The graph alone is made, and
    run by PyTorch's own operations."""
    expected = [encoder.encode(texts) for texts in MIXES]
    bert = encoder.bert
    prepare(bert)
    if in_place:
        bert.compile(fullgraph=fullgraph, backend="eager")
    else:
        encoder.bert = torch.compile(bert, fullgraph=fullgraph, backend="eager")  # type: ignore[assignment]
    for texts, wanted in zip(MIXES, expected, strict=True):
        assert close(encoder.encode(texts), wanted)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_model_is_run_by_several_threads(encoder: SentenceEncoder) -> None:
    texts = ["a " * (i % 20) for i in range(40)]
    expected = encoder.encode(texts)
    encoder.bert = torch.compile(encoder.bert, fullgraph=True, backend="eager")  # type: ignore[assignment]
    try:
        torch.set_num_threads(2)
        assert close(encoder.encode(texts, batch_tokens=30), expected)
    finally:
        torch.set_num_threads(1)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_sped_up_model_compiles_with_gradients(encoder: SentenceEncoder) -> None:
    bert, (ids, mask) = encoder.bert, inputs(20, 30)
    bert.pooler = None
    expected = torch.autograd.grad(bert(ids, mask).sin().sum(), list(bert.parameters()))
    speed_up(bert)
    compiled = torch.compile(bert, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(ids, mask).sin().sum(), list(bert.parameters()))
    largest = max(gradient.abs().max().item() for gradient in expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("prepare", [plain, speed_up])
@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_a_model_can_be_exported(
    encoder: SentenceEncoder, prepare: Callable[[Bert], None], dynamic: bool
) -> None:
    """With fixed sizes, or for any number of sentences and of positions up to the model's."""
    bert, example = encoder.bert, inputs()
    prepare(bert)
    axes = {0: torch.export.Dim("B", max=1000), 1: torch.export.Dim("S", max=40)}
    shapes = {"input_ids": axes, "attention_mask": axes} if dynamic else None
    exported = torch.export.export(bert, example, dynamic_shapes=shapes).module()
    sizes = [(2, 7), (5, 11), (3, 40)] if dynamic else [(2, 7)]
    for sentences, positions in sizes:
        ids, mask = inputs(sentences, positions)
        found, wanted = exported(ids, mask)[mask.bool()], bert(ids, mask)[mask.bool()]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_model_can_be_quantized(encoder: SentenceEncoder) -> None:
    """Every linear layer, also after speed_up and slow_down; and the encoder takes the result."""
    expected, bert = vectors(encoder), encoder.bert
    sped_up_and_slowed_down(bert)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls it deprecated
        quantized = torch.ao.quantization.quantize_dynamic(bert)
    dynamic = torch.ao.nn.quantized.dynamic.Linear
    assert sum(isinstance(part, dynamic) for part in quantized.modules()) == 2 * 6 + 1
    assert not any(type(part) is nn.Linear for part in quantized.modules())
    encoder.bert = quantized
    assert 1e-3 < np.abs(vectors(encoder) - expected).max() < 0.3  # eight bits
