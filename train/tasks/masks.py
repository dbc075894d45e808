"""Which tokens of a sequence are hidden, and what stands in their place."""

import zlib
from typing import NamedTuple

import numpy as np

from minibert.files import InputError
from minibert.tokenizer import Tokenizer, Tokens
from train.settings import Settings


class Masks(NamedTuple):
    """How words are masked (Devlin et al. 2019, section 3.1 and appendix A.2).

    rate: the share of a sequence's tokens, [CLS] and [SEP] left aside, that is chosen; a share of a
    token is a chance of one more. Of the chosen, the share `hidden` becomes [MASK], the share
    `random` becomes any token of the vocabulary, and the rest stays as it is. whole: words are
    chosen, with all of their pieces; one that has more pieces than are still wanted is passed over
    ("whole word masking", as in Google's create_pretraining_data.py).
    """

    rate: float
    hidden: float
    random: float
    whole: bool
    mask_id: int
    vocab_size: int
    seed: int

    @classmethod
    def of(cls, settings: Settings, tokenizer: Tokenizer) -> "Masks":
        """As the settings say. Raises InputError for shares that are none, for a vocabulary without
        [MASK], and for whole words where it does not tell which tokens begin one."""
        text = settings.mask_shares
        try:
            hidden, random, kept = (float(share) for share in text.split(","))
        except ValueError as error:
            raise InputError(
                f"mask_shares = {text!r}: give three numbers, as in 0.8, 0.1, 0.1"
            ) from error
        if min(hidden, random, kept) < 0 or not abs(hidden + random + kept - 1) < 1e-6:
            raise InputError(f"mask_shares = {text!r}: shares are at least 0, and add up to 1")
        mask_id = tokenizer.special_id("mask")
        if mask_id is None:
            raise InputError("the model's vocabulary has no [MASK], so no words can be masked")
        marked = any(token.startswith("##") for token in tokenizer.backend.get_vocab())
        if settings.whole_words and not marked:
            raise InputError(
                "whole_words = true needs WordPiece, which marks the later pieces of a word by ##; "
                "the model's vocabulary has none of these"
            )
        return cls(
            settings.mask_rate,
            hidden,
            random,
            settings.whole_words,
            mask_id,
            tokenizer.vocab_size,
            settings.seed,
        )

    def draw(self, tokens: Tokens, epoch: int, number: int) -> tuple[list[int], list[int]]:
        """The chosen positions of a sequence, in order, and the ids that stand there instead.

        The same arguments give the same result. number: the item's, in training. In evaluation,
        where epoch is 0, the sequence itself decides: it has the same masks in every run.
        """
        if epoch == 0:
            number = zlib.crc32(np.array(tokens.ids, np.int64).tobytes())
        random = np.random.default_rng((self.seed, epoch, number))
        units = self._units(tokens)
        wanted = int(self.rate * sum(map(len, units)) + random.random())
        chosen: list[int] = []
        for unit in random.permutation(len(units)):
            if len(chosen) + len(units[unit]) <= wanted:
                chosen += units[unit]
        chosen.sort()
        draws = random.random(len(chosen))
        others = random.integers(self.vocab_size, size=len(chosen))
        replaced = [
            self.mask_id
            if draw < self.hidden
            else int(other)
            if draw < self.hidden + self.random
            else tokens.ids[position]
            for position, draw, other in zip(chosen, draws, others, strict=True)
        ]
        return chosen, replaced

    def _units(self, tokens: Tokens) -> list[list[int]]:
        """The positions that are chosen together: a token's, or a word's."""
        if not self.whole:
            return [[i] for i, word in enumerate(tokens.words) if word is not None]
        words: dict[int, list[int]] = {}
        for position, word in enumerate(tokens.words):
            if word is not None:
                words.setdefault(word, []).append(position)
        return list(words.values())
