"""Gradient caching: a batch computed in pieces has the gradient of the whole batch.

Evidence, in float64: without dropout, the gradient of the batch at once. With dropout, the gradient
of one graph over all pieces, computed in order from the same random state. And how much autograd
keeps at a time, counted by PyTorch's hooks.
"""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from minibert import precision
from minibert.files import InputError
from tests.training import World, assemble_exact, assert_same, every_kind, make_world, step
from tests.training import write_model as write_tiny_model
from train.batches import Batch, Item
from train.cache import PrefixCache
from train.run import train
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import forward_backward

EXACT = 1e-9


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def in_pieces(parts: Parts, size: int) -> Parts:
    """The same model and data, with another size of the pieces."""
    settings = {**vars(parts.settings), "mini_batch_size": size}
    return Parts(**{**vars(parts), "settings": Settings(**settings)})


# The gradient


@pytest.mark.parametrize("size", [1, 4, 40])
def test_every_kind_has_the_gradient_of_the_whole_batch(
    world: World, tmp_path: Path, size: int
) -> None:
    parts, items = every_kind(world, tmp_path)
    expected, losses = step(parts, [items])
    assert size < len(parts.batch(items).sequences)
    found, in_them = step(in_pieces(parts, size), [items])
    assert_same(found, expected, EXACT)
    assert in_them.sums == pytest.approx(losses.sums, rel=EXACT)
    # several batches of a step, the last of which is smaller than a piece of 4
    found, _ = step(in_pieces(parts, size), [items[:20], items[20:-2], items[-2:]])
    assert_same(found, expected, EXACT)


def test_learnt_weights_of_the_losses_have_the_same_gradient(world: World) -> None:
    parts = assemble_exact(world.settings(dropout=0.0, loss="uncertainty"))
    expected, _ = step(parts, [parts.sources[0]])
    assert "log_variances.intent" in expected
    found, _ = step(in_pieces(parts, 6), [parts.sources[0]])
    assert_same(found, expected, EXACT)


def test_the_pooler_and_token_types_go_in_pieces(world: World, tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny-bert", pooler=True))
    settings = world.settings(
        world.pairs, model=model, pooling="pooler", pairs="together", dropout=0.0
    )
    parts = assemble_exact(settings)
    items = parts.sources[0]
    assert parts.batch(items).token_type_ids is not None
    expected, _ = step(parts, [items])
    assert "bert.pooler.dense.weight" in expected
    found, _ = step(in_pieces(parts, 7), [items])
    # squared errors are computed in float32 whatever the model's dtype
    assert_same(found, expected, 1e-6)


def one_graph(parts: Parts, items: Sequence[Item], size: int) -> dict[str, Tensor]:
    """The gradient of a batch whose pieces are computed one after the other, all in one graph."""
    model, tasks = parts.model, parts.tasks
    model.zero_grad()
    batch = parts.batch(items)
    states = torch.cat([model(piece) for piece in batch.pieces(size)])
    torch.stack([t.loss(model, states, batch) / t.count(batch) for t in tasks]).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dropout_is_the_same_in_both_passes(world: World, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    parts = assemble_exact(world.settings(dropout=0.3, device=device))
    items = parts.sources[0]
    torch.manual_seed(5)
    expected = one_graph(parts, items, 6)
    after = torch.rand(3), torch.rand(3, device=device)
    torch.manual_seed(5)
    found, _ = step(in_pieces(parts, 6), [items])
    # the generators too go on as if nothing had been computed twice
    assert all(map(torch.equal, after, (torch.rand(3), torch.rand(3, device=device))))
    assert_same(found, expected, EXACT)
    torch.manual_seed(6)
    other, _ = step(in_pieces(parts, 6), [items])
    with pytest.raises(AssertionError):
        assert_same(other, expected, 1e-2)  # dropout matters here


def test_gradients_add_up_in_float32_under_bfloat16(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, a sum over 44 pieces would lose far more than one batch does."""
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)
    exact = assemble(world.settings(dropout=0.0))
    rounded = assemble(world.settings(dropout=0.0, precision="bfloat16"))
    items = exact.sources[0]
    expected, _ = step(exact, [items])
    errors = [
        sum(float((found[name] - g).square().sum()) for name, g in expected.items()) ** 0.5
        for found, _ in (step(rounded, [items]), step(in_pieces(rounded, 1), [items]))
    ]
    assert 0 < errors[1] < 1.2 * errors[0]


# What is computed, and what is kept


def calls_of(parts: Parts, items: Sequence[Item]) -> list[int]:
    """How many sequences each call of the encoder in a step read."""
    calls = []

    def forward(batch: Batch) -> Tensor:
        calls.append(len(batch.layout.lengths))
        return parts.model(batch)

    batch = parts.batch(items)
    forward_backward([batch], parts.model, forward, parts.mixer, parts.tasks, parts.settings)
    return calls


def test_a_batch_that_is_no_larger_than_a_piece_is_computed_once(world: World) -> None:
    parts = assemble(world.settings(mini_batch_size=8))
    assert calls_of(parts, parts.sources[0][:8]) == [8]
    assert calls_of(parts, parts.sources[0][:9]) == [8, 1, 8, 1]


def test_what_is_frozen_is_not_computed_twice(world: World) -> None:
    parts = assemble(world.settings(mini_batch_size=5, freeze="backbone"))
    assert calls_of(parts, parts.sources[0][:10]) == [5, 5]
    for name, parameter in parts.model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("heads."), name


@pytest.mark.parametrize("state", ["empty", "filled"])
def test_the_prefix_cache_serves_pieces(world: World, tmp_path: Path, state: str) -> None:
    parts = assemble_exact(
        world.settings(freeze="embeddings, layers.0", dropout=0.3, mini_batch_size=6)
    )
    (items,) = parts.sources
    torch.manual_seed(5)
    expected = one_graph(parts, items, 6)
    cache = PrefixCache(parts.model, items, parts.plan.prefix(1), 2**20, tmp_path)
    batch = parts.batch(items)
    if state == "filled":
        cache.forward(batch)
    parts.model.zero_grad()
    torch.manual_seed(5)
    forward_backward([batch], parts.model, cache.forward, parts.mixer, parts.tasks, parts.settings)
    found = {n: p.grad for n, p in parts.model.named_parameters() if p.grad is not None}
    assert_same(found, expected, EXACT)


def most_kept(parts: Parts, items: Sequence[Item]) -> int:
    """The most numbers that autograd keeps at a time in a step, parameters aside."""
    known = {p.data_ptr() for p in parts.model.parameters()}
    kept = most = 0

    def drop(size: int) -> None:
        nonlocal kept
        kept -= size

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal kept, most
            self.tensor = tensor.detach()  # else an output and what made it would hold each other
            size = 0 if tensor.data_ptr() in known else tensor.numel()
            kept += size
            most = max(most, kept)
            weakref.finalize(self, drop, size)

    with saved_tensors_hooks(Kept, lambda held: held.tensor):
        step(parts, [items])
    return most


def test_the_memory_is_that_of_one_piece(world: World) -> None:
    parts = assemble(world.settings(dropout=0.3, tasks=("intent",)))
    items = sorted(parts.sources[0], key=lambda item: item.num_tokens)
    piece = most_kept(parts, items[-4:])
    assert most_kept(parts, items) > 6 * piece
    assert most_kept(in_pieces(parts, 4), items) < 1.2 * piece


# The program


def test_a_run_in_pieces_learns_as_one_at_once(world: World, tmp_path: Path) -> None:
    results = [
        train(world.settings(dropout=0.0, epochs=1, mini_batch_size=size), tmp_path / str(size))
        for size in (0, 3)
    ]
    for task, metrics in results[0].items():
        assert results[1][task] == pytest.approx(metrics, abs=1e-4)


def test_gradients_of_tasks_are_logged_of_batches_at_once_only(world: World) -> None:
    changes: dict[str, Any] = {"log_gradients": True, "mini_batch_size": 4}
    with pytest.raises(InputError, match="log_gradients = true needs each batch at once"):
        world.settings(**changes)
