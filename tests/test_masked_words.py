"""Masked words: which are masked, with what, and how the masks are reproduced.

Evidence: chi-square over a million tokens (scipy), at rates that the paper names. With the fixed
seed a test always gives the same; a wrong rate or share of one in a hundred would have a
probability far below the bound.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from minibert import InputError
from minibert.tokenizer import Tokenizer, Tokens
from tests.training import VOCABULARY, World, make_world
from train.settings import Settings
from train.tasks.masks import Masks

UNLIKELY = 1e-3  # a probability below which a hypothesis is given up
LENGTH = 126  # words of a sequence
CLS, SEP, MASK, V = 2, 3, 4, 500
PAPER = Masks(rate=0.15, hidden=0.8, random=0.1, whole=False, mask_id=MASK, vocab_size=V, seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def sequence(words: list[int | None], token: int = V) -> Tokens:
    """Tokens of these words; all but the special ones have an id that no random word has."""
    ids = [SEP if word is None else token for word in words]
    return Tokens([CLS, *ids[1:]], [0] * len(ids), words, lost=0)


FULL = sequence([None, *range(LENGTH), None])


@pytest.fixture(scope="module")
def drawn() -> list[tuple[list[int], list[int]]]:
    """What is masked in 8,000 sequences, which are a million tokens."""
    return [PAPER.draw(FULL, 1, number) for number in range(8000)]


def test_the_rate(drawn: list[tuple[list[int], list[int]]]) -> None:
    """15 % of 126 is 18.9: 18 or 19 in each, nine times in ten 19."""
    counts = np.array([len(positions) for positions, _ in drawn])
    found = np.bincount(counts)
    assert set(np.flatnonzero(found)) == {18, 19}
    expected = np.array([0.1, 0.9]) * len(drawn)
    assert chisquare(found[18:], expected).pvalue > UNLIKELY
    assert counts.sum() / (LENGTH * len(drawn)) == pytest.approx(0.15, rel=1e-3)


def test_the_shares(drawn: list[tuple[list[int], list[int]]]) -> None:
    """80 % [MASK], 10 % a random word, 10 % the word itself."""
    replaced = np.array([token for _, own in drawn for token in own])
    kept, hidden = (replaced == V).sum(), (replaced == MASK).sum()
    others = len(replaced) - kept - hidden
    # of V random words, one is [MASK]
    shares = np.array([0.8 + 0.1 / V, 0.1 - 0.1 / V, 0.1])
    assert chisquare([hidden, others, kept], shares * len(replaced)).pvalue > UNLIKELY


def test_positions_are_uniform(drawn: list[tuple[list[int], list[int]]]) -> None:
    """All but [CLS] and [SEP], which are never masked. The counts vary a little less than
    independent ones would, since each sequence has 18 or 19: so both ends are tested."""
    counts = np.bincount([p for positions, _ in drawn for p in positions], minlength=LENGTH + 2)
    assert counts[0] == counts[-1] == 0
    assert chisquare(counts[1:-1]).pvalue > UNLIKELY
    assert counts[1:-1].std() > 0.8 * np.sqrt(counts[1:-1].mean() * (1 - 0.15))


def test_random_words_are_uniform_over_the_vocabulary(
    drawn: list[tuple[list[int], list[int]]],
) -> None:
    counts = np.bincount([t for _, own in drawn for t in own if t < V], minlength=V)
    rest = np.delete(counts, MASK)
    assert rest.min() > 0
    assert chisquare(rest).pvalue > UNLIKELY


@pytest.mark.parametrize(("rate", "hidden", "random"), [(0.4, 1.0, 0.0), (0.3, 0.0, 0.5)])
def test_other_rates(rate: float, hidden: float, random: float) -> None:
    masks = PAPER._replace(rate=rate, hidden=hidden, random=random)
    replaced = [t for n in range(400) for t in masks.draw(FULL, 1, n)[1]]
    assert len(replaced) == pytest.approx(rate * LENGTH * 400, rel=2e-2)
    for share, found in (
        (hidden + random / V, sum(t == MASK for t in replaced)),
        (1 - hidden - random, sum(t == V for t in replaced)),
    ):
        low, high = binom.interval(1 - UNLIKELY, len(replaced), share)
        assert low <= found <= high


def test_short_sequences_have_the_rate_too() -> None:
    """Of three words, 0.45 are masked: one or none. A rule of at least one would mask a third."""
    short = sequence([None, 0, 1, 2, None])
    counts = [len(PAPER.draw(short, 1, number)[0]) for number in range(4000)]
    low, high = binom.interval(1 - UNLIKELY, 4000, 0.45)
    assert set(counts) == {0, 1}
    assert low <= sum(counts) <= high


def test_masks_follow_from_seed_epoch_and_number() -> None:
    first = PAPER.draw(FULL, 1, 5)
    assert PAPER.draw(FULL, 1, 5) == first
    for other in (
        PAPER.draw(FULL, 2, 5),
        PAPER.draw(FULL, 1, 6),
        PAPER._replace(seed=1).draw(FULL, 1, 5),
        PAPER.draw(FULL, 0, 5),  # evaluation
    ):
        assert other[0] != first[0]


def test_over_the_epochs_every_word_is_masked() -> None:
    """In thirty epochs, the chance that a word is never masked is 0.85 ** 30, below 1 %."""
    found = {p for epoch in range(1, 31) for p in PAPER.draw(FULL, epoch, 0)[0]}
    assert len(found) > 0.97 * LENGTH


def test_whole_words() -> None:
    """A word has all of its pieces masked, or none. One of more pieces than are wanted is passed
    over, and nothing is masked twice."""
    sizes = [1, 2, 3, 4, 1, 1, 5, 2, 1, 3, 30] * 2
    words: list[int | None] = [None]
    words += [number for number, size in enumerate(sizes) for _ in range(size)]
    tokens = sequence([*words, None])
    masks = PAPER._replace(whole=True, rate=0.2)
    masked, total = 0, 0
    for number in range(500):
        positions, replaced = masks.draw(tokens, 1, number)
        assert len(set(positions)) == len(positions) == len(replaced)
        assert positions == sorted(positions)
        chosen = {tokens.words[p] for p in positions}
        assert {p for p, word in enumerate(tokens.words) if word in chosen} == set(positions)
        assert None not in chosen
        assert not chosen & {10, 21}  # of thirty pieces each, while 21 or 22 are wanted
        masked, total = masked + len(positions), total + len(tokens.words) - 2
    assert masked / total == pytest.approx(0.2, rel=0.03)


# From settings


def masks_of(world: World, **changes: object) -> Masks:
    settings = replace(Settings(), **changes)
    return Masks.of(settings, Tokenizer.from_folder(world.model))


def test_masks_as_the_settings_say(world: World) -> None:
    paper = masks_of(world)
    assert paper == Masks(0.15, 0.8, 0.1, False, VOCABULARY.index("[MASK]"), len(VOCABULARY), 0)
    other = masks_of(world, mask_rate=0.4, mask_shares="1, 0, 0", whole_words=True, seed=3)
    assert other[:4] == (0.4, 1.0, 0.0, True)
    assert other.seed == 3


@pytest.mark.parametrize("shares", ["0.8, 0.1", "0.8, 0.1, 0.2", "1.2, -0.1, -0.1", "a, b, c", ""])
def test_shares_that_are_none(world: World, shares: str) -> None:
    with pytest.raises(InputError, match="mask_shares"):
        masks_of(world, mask_shares=shares)


def test_a_share_that_is_no_number(world: World) -> None:
    with pytest.raises(InputError, match="mask_shares"):
        masks_of(world, mask_shares="nan, 0.5, 0.5")


def test_a_vocabulary_without_mask(tmp_path: Path) -> None:
    """A tokenizer.json may have any names."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    file = tmp_path / "tokenizer.json"
    Tokenizer.from_folder(tmp_path).backend.save(str(file))
    file.write_text(file.read_text().replace("[MASK]", "[GAP]"))
    with pytest.raises(InputError, match=r"has no \[MASK\]"):
        Masks.of(Settings(), Tokenizer.from_folder(tmp_path))
