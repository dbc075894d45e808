"""A run holds only the word embeddings that its data uses; what comes of it is as if it had held
all."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minibert.config import BertConfig
from minibert.model import Bert, embedding
from tests.training import World, make_world, write_json_lines
from train import fit as fit_module
from train import run as run_module
from train.optimizer import BuildOptimizer, adamw
from train.setup import Parts, assemble
from train.words import UsedWords, only_decay_moves_unused_rows, used_words_only

IDS = [5, 3, 2, 8, 11, 3, 14]  # 14 is in the test split, say: used, and never learnt from


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def adam_with_l2(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups)


def learn(
    table: nn.Embedding,
    freeze_until: int = 0,
    build: BuildOptimizer = adamw,
    more: tuple[int, ...] = (),
) -> nn.Embedding:
    """Ten steps with a strong decay and a moving rate, on lookups of some words (and of more)."""
    optimizer = build([{"params": list(table.parameters()), "lr": 0.1, "weight_decay": 0.5}])
    for step in range(10):
        table.weight.requires_grad_(step >= freeze_until)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        ids = torch.tensor([3, 5, 3, 8, 5, 11, *more] if step % 2 else [3, 2, *more])
        loss = (table(ids) ** 2).sum() * (step + 1)
        if step >= freeze_until:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return table


@pytest.mark.parametrize("freeze_until", [0, 4, 10])
def test_ends_where_training_the_whole_table_ends(freeze_until: int) -> None:
    table = embedding(20, 6, padding_idx=0)
    nn.init.normal_(table.weight)
    reference = learn(copy.deepcopy(table), freeze_until)
    words = UsedWords(table, IDS)
    assert sum(p.numel() for p in words.parameters()) == 7 * 6
    whole = learn(words, freeze_until).whole()  # type: ignore[attr-defined]
    assert whole.padding_idx == 0
    used = [2, 3, 5, 8, 11, 14]
    assert torch.equal(whole.weight[used], reference.weight[used])
    # one product of all the decays, in place of one after the other: the last bits may differ
    torch.testing.assert_close(whole.weight, reference.weight, rtol=1e-6, atol=0)


def test_padding_in_the_data_is_not_learnt() -> None:
    """A literal "[PAD]" looks up row 0, which has no gradient in the whole table, and so none
    here."""
    table = embedding(20, 6, padding_idx=0)
    nn.init.normal_(table.weight)
    reference = learn(copy.deepcopy(table), more=(0,))
    whole = learn(UsedWords(table, [*IDS, 0]), more=(0,)).whole()  # type: ignore[attr-defined]
    assert torch.equal(whole.weight[[0, *IDS]], reference.weight[[0, *IDS]])


@pytest.mark.parametrize("build", [adamw, adam_with_l2])
def test_the_whole_table_is_trained_where_more_than_decay_moves_unused_rows(
    build: BuildOptimizer,
) -> None:
    """Adam with L2 moves rows that never occur by more than one factor: the trick steps aside."""
    assert only_decay_moves_unused_rows(build) == (build is adamw)
    sizes = {"vocab_size": 20, "hidden_size": 6, "num_attention_heads": 2}
    bert = Bert(BertConfig(**sizes, num_hidden_layers=1, intermediate_size=8))
    reference = learn(copy.deepcopy(bert.embeddings.word), build=build)
    with used_words_only(bert, IDS, build) as words:
        assert (words is None) == (build is adam_with_l2)
        learn(bert.embeddings.word, build=build)
    torch.testing.assert_close(bert.embeddings.word.weight, reference.weight, rtol=1e-6, atol=1e-12)


def test_adam_with_l2_would_go_wrong() -> None:
    """Why the trick asks: forced on it, the rows that never occur end elsewhere."""
    table = embedding(20, 6)
    nn.init.normal_(table.weight)
    reference = learn(copy.deepcopy(table), build=adam_with_l2)
    whole = learn(UsedWords(table, IDS), build=adam_with_l2).whole()  # type: ignore[attr-defined]
    assert torch.equal(whole.weight[IDS], reference.weight[IDS])
    assert (whole.weight - reference.weight).abs().max() > 0.1


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_after_training_any_text_can_be_encoded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Also a text of words that no example has; and what it is encoded with is what is saved."""
    kept: list[Parts] = []

    def keeping(*arguments: Any, **options: Any) -> Parts:
        kept.append(assemble(*arguments, **options))
        return kept[-1]

    def fails(*_: Any) -> None:
        raise RuntimeError("in the midst of the run")

    write_json_lines(
        tmp_path / "data/train.jsonl", [{"text": "[PAD] sing", "x": x} for x in "abab"]
    )
    write_json_lines(tmp_path / "data/dev.jsonl", [{"text": "play", "x": "a"}])
    monkeypatch.setattr(run_module, "assemble", keeping)
    settings = world.settings(tmp_path / "data", epochs=1)
    if ends == "well":
        run_module.train(settings, tmp_path / "run")
    else:
        monkeypatch.setattr(fit_module, "save_checkpoint", fails)
        with pytest.raises(RuntimeError, match="in the midst"):
            run_module.train(settings, tmp_path / "run")
    (parts,) = kept
    assert parts.encoder.bert.embeddings.word.weight.shape == (43, 24)
    vectors = parts.encoder.encode(["rain in paris", "joe doe"])
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("learns", [True, False])
def test_a_frozen_table_stays_frozen(world: World, learns: bool) -> None:
    parts = assemble(world.settings(freeze="" if learns else "embeddings"))
    with used_words_only(parts.encoder.bert, parts.token_ids(), adamw) as words:
        assert words is not None
        assert words.weight.requires_grad == learns
    assert parts.encoder.bert.embeddings.word.weight.requires_grad == learns


def test_a_word_that_was_not_announced_is_an_error() -> None:
    words = UsedWords(embedding(9, 4), [1, 2])
    with pytest.raises(IndexError):
        words(torch.tensor([3]))
