"""A run holds only the word embeddings that its data uses; what comes of it is as if it had held
all."""

import copy

import pytest
import torch
from torch import nn

from minibert.model import embedding
from train.words import UsedWords


def learn(table: nn.Embedding, freeze_until: int = 0) -> nn.Embedding:
    """Ten steps of AdamW with a strong decay and a moving rate, on lookups of some words."""
    optimizer = torch.optim.AdamW(table.parameters(), lr=0.1, weight_decay=0.5, fused=True)
    for step in range(10):
        table.weight.requires_grad_(step >= freeze_until)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        ids = torch.tensor([[3, 5, 3], [8, 5, 11]]) if step % 2 else torch.tensor([[3, 2]])
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
    # 14 is in the test split, say: used, and never learnt from
    words = UsedWords(table, [5, 3, 2, 8, 11, 3, 14])
    assert sum(p.numel() for p in words.parameters()) == 7 * 6
    whole = learn(words, freeze_until).whole()  # type: ignore[attr-defined]
    assert whole.padding_idx == 0
    used = [2, 3, 5, 8, 11, 14]
    assert torch.equal(whole.weight[used], reference.weight[used])
    # one product of all the decays, in place of one after the other: the last bits may differ
    torch.testing.assert_close(whole.weight, reference.weight, rtol=1e-6, atol=0)


def test_a_word_that_was_not_announced_is_an_error() -> None:
    words = UsedWords(embedding(9, 4), [1, 2])
    with pytest.raises(IndexError):
        words(torch.tensor([3]))
