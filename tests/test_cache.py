"""The cache of the frozen prefix changes nothing but the time.

Evidence: whole runs with and without it, compared bit for bit; and the frozen layers' calls,
counted. A row of a matrix product has the same bits whatever else is in the batch only above about
a dozen rows, so every batch here has more tokens than that; and the tiny model's runs have one
thread, since products as small as its are cut between two threads in another way for every number
of rows. The real model's are not, which a test of its own shows.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minibert.fast import speed_up
from minibert.fast.linear import FEW, has_avx512
from minibert.files import InputError, write_text
from minibert.layout import Packed
from minibert.model import Bert, Layer
from tests.training import World, assert_near, make_world, needs_bfloat16, outcome
from train import cache as cache_module
from train.batches import Batch, Input, Item, collate, prepare
from train.cache import PrefixCache
from train.data.examples import Example
from train.journal import Journal
from train.model import Forward
from train.run import main, train
from train.setup import assemble
from train.step import forward_backward
from train.tasks.regression import SentenceRegression

pytestmark = pytest.mark.usefixtures("one_thread")

PREFIXES = {"embeddings": 1, "embeddings,layers.0": 2, "embeddings,layers.0-1": 3, "backbone": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def calls() -> Iterator[Counter[tuple[int, bool]]]:
    """How often a layer ran, by its id and whether it was frozen."""
    counted: Counter[tuple[int, bool]] = Counter()

    def count(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(module, Layer):
            counted[id(module), not any(p.requires_grad for p in module.parameters())] += 1

    handle = nn.modules.module.register_module_forward_hook(count)
    yield counted
    handle.remove()


def frozen_calls(calls: Counter[tuple[int, bool]]) -> list[int]:
    return [count for (_, frozen), count in calls.items() if frozen]


# Whole runs, with and without


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("freeze", PREFIXES)
def test_runs_are_the_same_bit_for_bit(
    world: World, tmp_path: Path, freeze: str, dropout: float
) -> None:
    """As a file, and in memory; dropout is off in what is frozen, and on above it."""
    kinds: dict[str, dict[str, Any]] = {
        "without": {"cache": False},
        "cached": {"cache_mib": 64 if dropout else 0},
    }
    for name, changes in kinds.items():
        train(world.settings(freeze=freeze, dropout=dropout, **changes), tmp_path / name)
    expected = outcome(tmp_path / "without")
    assert len(expected["log"].splitlines()) == 2 * (6 + 1)
    assert outcome(tmp_path / "cached") == expected


SCENARIOS: dict[str, dict[str, Any]] = {
    "accumulation": {"freeze": "embeddings,layers.0", "accumulate": 4},
    "accumulation, file": {"freeze": "embeddings,layers.0", "accumulate": 4, "cache_mib": 0},
    "thawing": {
        "freeze": "backbone",
        "unfreeze": "2: layers.2; 3: layers.1; 4: layers.0, embeddings",
        "epochs": 4,
    },
    "thawing, file": {"freeze": "backbone", "unfreeze": "2: layers.1-2", "cache_mib": 0},
    "thawing from the bottom": {
        "freeze": "embeddings,layers.0-1",
        "unfreeze": "2: embeddings",
        "epochs": 3,
    },
    "often evaluated": {"freeze": "embeddings,layers.0", "eval_steps": 2, "accumulate": 2},
    "gradients": {"freeze": "embeddings,layers.0", "log_gradients": True},
    "losses": {"freeze": "embeddings,layers.0", "loss": "uncertainty"},
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_runs_are_the_same_in_every_setting(world: World, tmp_path: Path, name: str) -> None:
    for cache in (True, False):
        train(world.settings(cache=cache, **SCENARIOS[name]), tmp_path / str(cache))
    assert outcome(tmp_path / "True") == outcome(tmp_path / "False")


@pytest.mark.parametrize("sampling", ["proportional", "temperature", "round-robin"])
def test_runs_of_several_sources_and_pairs_are_the_same(
    world: World, tmp_path: Path, sampling: str
) -> None:
    sources = (world.sentences, world.pairs, world.scores)
    for cache in (True, False):
        settings = world.settings(
            *sources,
            freeze="embeddings,layers.0-1",
            cache=cache,
            sampling=sampling,
            epochs=3,
            accumulate=2,
        )
        train(settings, tmp_path / str(cache))
    assert outcome(tmp_path / "True") == outcome(tmp_path / "False")


# How often the frozen layers run


@pytest.mark.parametrize(("freeze", "frozen_layers"), [("embeddings,layers.0", 1), ("backbone", 3)])
def test_frozen_layers_run_once_a_sentence(
    world: World, tmp_path: Path, calls: Counter[tuple[int, bool]], freeze: str, frozen_layers: int
) -> None:
    """The first epoch's six batches and its one batch of dev; and dev and test once more, at the
    end of the run."""
    train(world.settings(freeze=freeze, epochs=5), tmp_path / "run")
    assert frozen_calls(calls) == [6 + 1 + 2] * frozen_layers
    calls.clear()
    train(world.settings(freeze=freeze, epochs=5, cache=False), tmp_path / "without")
    assert frozen_calls(calls) == [5 * (6 + 1) + 2] * frozen_layers


def test_after_the_first_epoch_only_what_learns_is_computed(
    world: World, tmp_path: Path, calls: Counter[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_epoch_end: list[int] = []
    note = Journal.note_evaluation

    def noting(journal: Journal) -> None:
        at_epoch_end.append(sum(calls.values()))
        note(journal)

    monkeypatch.setattr(Journal, "note_evaluation", noting)
    train(world.settings(freeze="backbone", epochs=3), tmp_path / "run")
    assert at_epoch_end == [3 * (6 + 1)] * 3


def passes(cache: PrefixCache, batches: list[Batch]) -> list[Tensor]:
    with torch.no_grad():
        return [cache.forward(batch) for batch in batches]


def test_other_batches_of_the_same_sentences_come_from_the_cache(
    world: World, tmp_path: Path, calls: Counter[tuple[int, bool]]
) -> None:
    """Filled in one composition of batches and read in another: the same bits as the whole model
    gives."""
    for freeze, prefix in PREFIXES.items():
        parts = assemble(world.settings(world.pairs, freeze=freeze, dropout=0.0))
        (items,) = parts.sources
        cache = PrefixCache(parts.model, items, prefix, 2**20, tmp_path)
        first = [parts.batch(items[i : i + 5]) for i in range(0, len(items), 5)]
        passes(cache, first)
        calls.clear()
        shuffled = [items[(7 * i + 3) % len(items)] for i in range(len(items))]
        second = [parts.batch(shuffled[i : i + 8]) for i in range(0, len(items), 8)]
        found = passes(cache, second)
        assert frozen_calls(calls) == []
        assert sum(calls.values()) == len(second) * (3 - (prefix - 1))
        for batch, states in zip(second, found, strict=True):
            assert torch.equal(states, parts.model(batch))


def test_a_batch_of_known_and_new_sentences_is_right(world: World, tmp_path: Path) -> None:
    parts = assemble(world.settings(freeze="embeddings,layers.0-1", dropout=0.0))
    items = parts.sources[0]
    cache = PrefixCache(parts.model, items, 3, 2**20, tmp_path)
    passes(cache, [parts.batch(items[:6])])
    mixed = parts.batch(items[3:12])
    assert torch.equal(passes(cache, [mixed])[0], parts.model(mixed))
    assert torch.equal(passes(cache, [mixed])[0], parts.model(mixed))


def test_gradients_above_the_cache_are_the_same(world: World, tmp_path: Path) -> None:
    """And nothing below has one, in the pass that fills the cache as in the pass that reads it."""
    parts = assemble(world.settings(freeze="embeddings,layers.0", dropout=0.0))
    cache = PrefixCache(parts.model, parts.sources[0], 2, 2**20, tmp_path)
    batch = parts.batch(parts.sources[0])
    learning = [p for p in parts.model.bert.parameters() if p.requires_grad]

    def gradients(forward: Callable[[Batch], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(batch).square().sum(), learning, allow_unused=False)

    expected = gradients(parts.model)
    for forward in (cache.forward, cache.forward):
        assert all(map(torch.equal, gradients(forward), expected))


@needs_bfloat16
def test_in_bfloat16_the_cache_changes_gradients_by_its_rounding_alone(
    world: World, tmp_path: Path
) -> None:
    """By at most 2^-7 of a tensor's norm. The order of a product's sums may depend on the batch,
    and the cache holds what other batches computed."""
    parts = assemble(
        world.settings(freeze="embeddings,layers.0", dropout=0.0, precision="bfloat16")
    )
    items = parts.sources[0]
    cache = PrefixCache(parts.model, items, 2, 2**20, tmp_path)
    model = parts.model

    def gradients(items: Sequence[Item], forward: Forward) -> dict[str, Tensor]:
        model.zero_grad()
        batch = parts.batch(items)
        forward_backward([batch], model, forward, parts.mixer, parts.tasks, parts.settings)
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    for i in range(0, len(items), 3):
        gradients(items[i : i + 3], cache.forward)
    assert_near(gradients(items, cache.forward), gradients(items, model), 2**-7)


class PairInOneSequence(SentenceRegression):
    """Reads a pair as [CLS] first [SEP] second [SEP], which has token types."""

    def inputs(self, example: Example) -> tuple[Input, ...]:
        return (Input(example.text, example.second),)


def test_token_types_reach_the_model_and_the_cache(world: World, tmp_path: Path) -> None:
    """Two texts in one sequence: the states are those of the tokenizer's own pair, from the model,
    and from the cache when it is filled and when it is read."""
    parts = assemble(world.settings(world.pairs, freeze="embeddings,layers.0", dropout=0.0))
    tokenizer = parts.encoder.tokenizer
    pairs = [("play the songs", "sing"), ("rain", "snow in oslo")]
    examples = [Example(first, {}, "", None, second) for first, second in pairs]
    items = prepare(examples, tokenizer, [PairInOneSequence("x")])
    batch = collate(items, [])
    tokens = sorted(tokenizer.encode_pairs(pairs), key=lambda one: len(one.ids))
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [i for one in tokens for i in one.type_ids]
    with torch.no_grad():
        expected = [
            parts.model.bert(torch.tensor([t.ids]), None, torch.tensor([t.type_ids]))[0]
            for t in tokens
        ]
        without = parts.model.bert(batch.input_ids, layout=batch.layout)
    cache = PrefixCache(parts.model, items, 2, 2**20, tmp_path)
    whole = passes(cache, [batch, batch])
    assert torch.equal(whole[0], whole[1])
    for found in (parts.model(batch).detach(), *whole):
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-6)
        assert (found - without).abs().max() > 1e-3


# Where it is kept


def test_memory_up_to_the_limit_and_then_a_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[np.memmap] = []
    nameless = cache_module.nameless_file

    def noting(*where: Any) -> np.memmap:
        files.append(nameless(*where))
        return files[-1]

    monkeypatch.setattr(cache_module, "nameless_file", noting)
    parts = assemble(world.settings(freeze="embeddings"))
    items = parts.sources[0]
    tokens = sum(len(item.parts[0].ids) for item in items)
    caches = []
    for memory, expected in ((tokens * 24 * 4, 0), (tokens * 24 * 4 - 1, 1)):
        caches.append(PrefixCache(parts.model, items, 1, memory, tmp_path / "run"))
        assert len(files) == expected
        passes(caches[-1], [parts.batch(parts.sources[0])])
    # the file has no name, so that nothing can be left of it
    assert list((tmp_path / "run").iterdir()) == []
    assert torch.equal(caches[0].states, caches[1].states)
    assert np.array_equal(files[0].view(np.float32).reshape(tokens, 24), caches[0].states.numpy())
    assert caches[0].states.abs().min(1).values.max() > 0


def test_a_run_uses_the_file_and_leaves_none(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file for each prefix of the schedule."""
    made: list[int] = []
    nameless = cache_module.nameless_file

    def counting(folder: Path, num_bytes: int) -> np.memmap:
        made.append(num_bytes)
        return nameless(folder, num_bytes)

    monkeypatch.setattr(cache_module, "nameless_file", counting)
    settings = world.settings(freeze="backbone", unfreeze="2: layers.2", cache_mib=0, epochs=3)
    train(settings, tmp_path / "run")
    tokens = sum(
        len(item.parts[0].ids)
        for items in (*assemble(settings).sources, assemble(settings).dev)
        for item in items
    )
    assert made == [tokens * 24 * 4] * 2
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {
        *("checkpoints", "heads.safetensors", "log.jsonl"),
        *("metrics.json", "model", "predictions.jsonl", "report.html"),
        *("settings.toml", "tasks.json", "transformers"),
    }


def test_no_cache_where_nothing_below_is_frozen(
    world: World, tmp_path: Path, calls: Counter[tuple[int, bool]]
) -> None:
    """Every frozen layer runs in every batch: three epochs of six batches and of dev, and two more
    passes at the end."""
    for name, settings in (
        ("above", world.settings(freeze="layers.1", epochs=3)),
        ("without", world.settings(freeze="embeddings, layers.0", epochs=3, cache=False)),
    ):
        calls.clear()
        train(settings, tmp_path / name)
        assert frozen_calls(calls) == [3 * (6 + 1) + 2]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system has no posix_fallocate")
def test_a_disk_without_room_is_one_clear_error(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(descriptor: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    settings = world.settings(freeze="backbone", cache_mib=0)
    with pytest.raises(InputError, match=r"no room in .* for the frozen layers' output, 0 MiB"):
        train(settings, tmp_path / "run")
    write_text(tmp_path / "recipe.toml", settings.toml())
    assert (
        main(["--recipe", str(tmp_path / "recipe.toml"), "--output", str(tmp_path / "again")]) == 2
    )
    assert "or do without (--no-cache)" in capsys.readouterr().err
    assert (
        main(
            [
                "--recipe",
                str(tmp_path / "recipe.toml"),
                "--output",
                str(tmp_path / "third"),
                "--no-cache",
            ]
        )
        == 0
    )


# The real model


@pytest.mark.parametrize("fast", [False, True])
def test_real_rows_do_not_depend_on_the_batch(minilm: Path, fast: bool) -> None:
    """What the cache rests on: MiniLM, on all threads, in random batches of FEW tokens or more.

    Where linear layers are convolutions, rows have the same bits; elsewhere, but for rounding.
    """
    bert = Bert.from_pretrained(minilm)
    if fast:
        speed_up(bert)
    tolerance = 0.0 if fast and has_avx512() else 2e-5
    torch.set_num_threads(os.cpu_count() or 1)  # the fixture one_thread puts back what was before
    sentences = [
        torch.randint(1000, 20000, (length,))
        for length in torch.randint(3, 30, (48,)).sort().values.tolist()
    ]

    def rows(chosen: list[int]) -> tuple[Tensor, ...]:
        lengths = [len(sentences[i]) for i in chosen]
        with torch.no_grad():
            input_ids = torch.cat([sentences[i] for i in chosen])
            return bert(input_ids, layout=Packed(lengths)).split(lengths)

    everything = rows(list(range(len(sentences))))
    compared = 0
    for size in range(2, 40, 3):
        chosen = sorted(torch.randperm(len(sentences))[:size].tolist())
        if sum(len(sentences[i]) for i in chosen) < FEW:
            continue
        for i, row in zip(chosen, rows(chosen), strict=True):
            assert (row - everything[i]).abs().max() <= tolerance
            compared += 1
    assert compared > 200
