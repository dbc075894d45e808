"""Text -> token ids, over the `tokenizers` library.

WordPiece (Wu et al. 2016, section 4.1, arXiv:1609.08144) is the one part of BERT that is not
written by hand here: the library gives the ids that `transformers` gives. Google's own Python code,
which the first checkpoints were trained with, differs in two known cases, a word-final Greek sigma
and U+10FFFF.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from minibert.files import InputError
from minibert.formats.tokenizer import for_words, read_tokenizer, special_tokens, write_tokenizer
from minibert.formats.tokenizer_parts import refusals
from minibert.texts import check_texts
from minibert.tokens import Tokens, Truncated, Truncation

Form = Literal["text", "words", "pair"]
MOST_BEFORE_WINDOWS = 64  # of a pair whose second text is read in windows: tokens of the first


class Tokenizer:
    """BERT's tokenizer with a length limit.

    backend: a `tokenizers.Tokenizer`; its own padding and truncation are switched off.
    max_length: the most tokens a text may have, [CLS] and [SEP] included; None for no limit.
    special: its special tokens by their roles, as `special_tokens` finds them.
    source: its file, to be named when the library refuses a text.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        max_length: int | None = None,
        special: Mapping[str, str] | None = None,
        source: str = "the tokenizer",
    ) -> None:
        backend.no_padding()  # MiniLM's file asks for 128 tokens, always
        backend.no_truncation()
        self.backend = backend
        self.max_length = max_length
        self.source = source
        self.special = special_tokens(backend) if special is None else dict(special)

    @classmethod
    def from_folder(cls, folder: Path, vocab_size: int | None = None) -> "Tokenizer":
        """The tokenizer of a model folder. Arguments and errors as of `read_tokenizer`."""
        return cls(*read_tokenizer(folder, vocab_size))

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return 1 + max(self.backend.get_vocab().values())

    def encode(self, texts: Sequence[str], truncation: Truncation = "warn") -> list[Tokens]:
        """[CLS] text [SEP] for each text.

        Texts longer than `max_length` lose their end: with a TruncationWarning that says how much
        ("warn"), without ("silent"), or not at all, but with an InputError ("error"). Raises
        InputError for what is not text.
        """
        check_texts(texts)
        return self._told(self.tokenize(texts), truncation)

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], truncation: Truncation = "warn"
    ) -> list[Tokens]:
        """[CLS] first [SEP] second [SEP] for each pair: token type 0 up to the first [SEP], 1 after
        it (Devlin et al. 2019, figure 2). The longer text of a pair loses its end first."""
        for i, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(
                    f"pair number {i} (counted from 0) must be two texts, not {pair!r:.80}"
                )
            check_texts(pair, f"pair number {i}, ")
        pieces = iter(self._pieces([text for pair in pairs for text in pair]))
        tokens = [self._tokens(list(pair)) for pair in zip(pieces, pieces, strict=True)]
        return self._told(tokens, truncation)

    def encode_words(
        self, sentences: Sequence[Sequence[str]], truncation: Truncation = "warn"
    ) -> list[Tokens]:
        """[CLS] words [SEP] for each sentence that is split already; `Tokens.words` maps its tokens
        to its words. A word that the normalisation empties has no token at all.
        """
        for i, words in enumerate(sentences):
            if not isinstance(words, tuple | list):
                raise InputError(
                    f"sentence number {i} (counted from 0) must be a list of words, "
                    f"not {words!r:.80}"
                )
            check_texts(words, f"sentence number {i}, ")
        pieces = self._pieces(list(sentences), split=True)
        return self._told([self._tokens([words]) for words in pieces], truncation)

    def encode_windows(
        self, inputs: Sequence[str | Sequence[str] | tuple[str, str]], overlap: int, form: Form
    ) -> list[list[Tokens]]:
        """All of each input: one sequence, or several windows where it is longer than `max_length`.

        form: what the inputs are: "text", "words" or "pair". Each window begins with the last
        `overlap` tokens of the one before it. Of a pair, the second text is read in windows, and
        each of them follows the whole first text, of which at most MOST_BEFORE_WINDOWS tokens are
        kept (as in Google's run_squad.py). Raises InputError where the limit leaves no room, and
        for what is not text.
        """
        if form == "text":
            check_texts(inputs)  # type: ignore[arg-type]
        else:
            for i, one in enumerate(inputs):
                check_texts(one, f"{'pair' if form == 'pair' else 'sentence'} number {i}, ")
        texts: list[Any] = [t for one in inputs for t in one] if form == "pair" else list(inputs)
        pieces = self._pieces(texts, split=form == "words")
        if form != "pair":
            return [self._windows([text], overlap) for text in pieces]
        pairs = iter(pieces)
        return [self._windows(list(pair), overlap) for pair in zip(pairs, pairs, strict=True)]

    def special_id(self, role: str) -> int | None:
        """The id of the special token of a role, such as "mask"; None if there is none."""
        token = self.special.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def token(self, token_id: int) -> str:
        """The token of an id. A model may have embeddings for more ids than there are tokens."""
        return self.backend.id_to_token(token_id) or f"[no token {token_id}]"

    def lower_first(self) -> None:
        """Lower-case every text first, as sentence-transformers' `do_lower_case` asks."""
        ours = self.backend.normalizer
        self.backend.normalizer = Normalizers([Lowercase(), ours]) if ours else Lowercase()

    def save(self, folder: Path, token_types: bool = True) -> None:
        """Write the files that `from_folder` reads. token_types: whether the model has a type for
        the second text of a pair. Raises InputError if the disk refuses."""
        write_tokenizer(self.backend, self.max_length, self.special, token_types, folder)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """As `encode`, for texts that have been checked, and silent about what was cut off."""
        return [self._tokens([text]) for text in self._pieces(list(texts))]

    def limited(self, *limits: int | None) -> "Tokenizer":
        """The same tokenizer with the smallest of its own and these limits."""
        known = [limit for limit in (self.max_length, *limits) if limit is not None]
        return Tokenizer(self.backend, min(known, default=None), self.special, self.source)

    @cached_property
    def _for_words(self) -> tokenizers.Tokenizer:
        return for_words(self.backend)

    def _pieces(self, texts: list[Any], split: bool = False) -> list[tokenizers.Encoding]:
        """The tokens of each text, without [CLS] and [SEP]. split: texts are lists of words."""
        backend = self._for_words if split else self.backend
        with refusals(self.source):
            return backend.encode_batch(texts, is_pretokenized=split, add_special_tokens=False)

    def _tokens(self, parts: list[tokenizers.Encoding]) -> Tokens:
        """One text's or one pair's pieces, cut to the limit, with [CLS], [SEP] and token types.

        The library cuts only by a setting of the tokenizer, which other threads would see.
        """
        special = self.backend.num_special_tokens_to_add(len(parts) == 2)
        lengths = [len(part) for part in parts]
        lost = 0
        if self.max_length is not None and sum(lengths) + special > self.max_length:
            room = self.max_length - special
            if room < 1:
                raise InputError(
                    f"a limit of {self.max_length} tokens leaves no room for text beside [CLS] "
                    "and [SEP]"
                )
            lost = sum(lengths) - room
            for part, length in zip(parts, longest_first(lengths, room), strict=True):
                part.truncate(length)
        whole = self.backend.post_process(parts[0], parts[1] if len(parts) == 2 else None)
        return Tokens(whole.ids, whole.type_ids, whole.word_ids, lost)

    def _windows(self, parts: list[tokenizers.Encoding], overlap: int) -> list[Tokens]:
        """The windows of a text, or of the second of a pair, each with [CLS] and [SEP]."""
        text, before = parts[-1], parts[0] if len(parts) == 2 else None
        lost = 0
        if before is not None:
            lost = max(0, len(before) - MOST_BEFORE_WINDOWS)
            before.truncate(MOST_BEFORE_WINDOWS)
        special = self.backend.num_special_tokens_to_add(len(parts) == 2)
        room = len(text)
        if self.max_length is not None:
            room = self.max_length - special - (0 if before is None else len(before))
            if room <= overlap and len(text) > room:
                raise InputError(
                    f"a limit of {self.max_length} tokens leaves no room for windows that overlap "
                    f"by {overlap}: lower the stride, or raise max_length"
                )
        text.truncate(max(room, 1), stride=min(overlap, max(room, 1) - 1))
        windows = []
        for window in (text, *text.overflowing):
            pair = (window, None) if before is None else (before, window)
            whole = self.backend.post_process(*pair)
            windows.append(Tokens(whole.ids, whole.type_ids, whole.word_ids, lost, whole.offsets))
        return windows

    def _told(self, tokens: list[Tokens], truncation: Truncation) -> list[Tokens]:
        """The same tokens, after saying how much the limit has cut off."""
        truncated = Truncated(self.max_length, truncation)
        if any(one.lost for one in tokens):
            truncated.add(tokens)
            truncated.warn(len(tokens))
        return tokens


def longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths of one or two texts after the longer one has lost tokens until both fit.

    Once they are equally long, they lose tokens in turn; an odd token goes to the longer text.
    This is "longest_first" of the tokenizers library.
    """
    if len(lengths) == 1:
        return [room]
    shorter = min(*lengths, room // 2)
    kept = [shorter, room - shorter]
    return kept if lengths[0] <= lengths[1] else kept[::-1]
