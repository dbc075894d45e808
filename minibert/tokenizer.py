"""Text -> token ids, over the `tokenizers` library.

WordPiece (Wu et al. 2016, section 4.1, arXiv:1609.08144) is the one part of BERT that is not
written by hand here: the library gives the ids that `transformers` gives. Google's own Python code,
which the first checkpoints were trained with, differs in two known cases, a word-final Greek sigma
and U+10FFFF.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from minibert.files import InputError, read_object, read_text, replacing, split_lines, write_json

Truncation = Literal["warn", "error", "silent"]
TRUNCATIONS: tuple[str, ...] = get_args(Truncation)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Tokens:
    """One tokenized text, [CLS] and [SEP] included."""

    ids: list[int]
    type_ids: list[int]  # 0; 1 for the second text of a pair and its [SEP]
    words: list[int | None]  # the word that each token is a piece of; None for [CLS] and [SEP]
    lost: int  # how many tokens were cut off

    @cached_property
    def first_pieces(self) -> dict[int, int]:
        """Each word that has a piece -> the position of its first one."""
        first: dict[int, int] = {}
        for position, word in enumerate(self.words):
            if word is not None:
                first.setdefault(word, position)
        return first


class TruncationWarning(UserWarning):
    """Some texts were longer than the limit, and their ends were cut off."""


@dataclass
class Truncated:
    """Counts the texts that were cut off at a limit of tokens, and the tokens that they lost."""

    limit: int | None
    texts: int = 0
    tokens: int = 0
    longest: tuple[int, int] = (0, 0)  # its tokens before it was cut, and its number

    def add(self, texts: Sequence[Tokens], first: int = 0) -> None:
        """Count some more texts. first: the number of the first one."""
        for number, text in enumerate(texts, start=first):
            if text.lost:
                self.texts += 1
                self.tokens += text.lost
                length = len(text.ids) + text.lost
                if length > self.longest[0]:
                    self.longest = length, number

    def message(self, total: int) -> str:
        """What was too long. total: how many texts there were."""
        return (
            f"{self.texts} of {total} texts are longer than {self.limit} tokens: the longest is "
            f"number {self.longest[1]} (counted from 0) with {self.longest[0]}"
        )

    def warn(self, total: int) -> None:
        """Give a TruncationWarning."""
        lost = f"{self.tokens} tokens were cut off"
        warnings.warn(f"{self.message(total)}; {lost}", TruncationWarning, stacklevel=3)


class Tokenizer:
    """BERT's tokenizer with a length limit.

    backend: a `tokenizers.Tokenizer`; its own padding and truncation are switched off.
    max_length: the most tokens a text may have, [CLS] and [SEP] included; None for no limit.
    """

    def __init__(self, backend: tokenizers.Tokenizer, max_length: int | None = None) -> None:
        backend.no_padding()  # MiniLM's file asks for 128 tokens, always
        backend.no_truncation()
        self.backend = backend
        self.max_length = max_length

    @classmethod
    def from_folder(cls, folder: Path, vocab_size: int | None = None) -> "Tokenizer":
        """The tokenizer of a model folder: its tokenizer.json, or BERT's WordPiece over its
        vocab.txt.

        vocab_size: how many word embeddings the model has. Raises InputError if there is no
        tokenizer, if a file is damaged, or if the tokenizer gives ids that the model has no
        embedding for.
        """
        file, vocabulary, settings_file = (
            folder / name for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
        )
        settings = read_object(settings_file) if settings_file.exists() else {}
        if file.exists():
            try:
                backend = tokenizers.Tokenizer.from_str(read_text(file))
            except Exception as error:  # the library raises nothing narrower
                raise InputError(f"{file} is not a tokenizer: {error}") from error
        elif vocabulary.exists():
            file, backend = vocabulary, word_piece(vocabulary, settings)
        else:
            raise InputError(f"{folder} has neither tokenizer.json nor vocab.txt")
        around = backend.encode("", "").ids  # [CLS] [SEP] [SEP]
        if not around:
            raise InputError(
                f"{file} is no BERT tokenizer: it puts no [CLS] and [SEP] around a text"
            )
        unknown = getattr(backend.model, "unk_token", None)
        if unknown is not None and backend.token_to_id(unknown) is None:
            raise InputError(
                f"{file} is no sound tokenizer: its vocabulary lacks its own unk_token {unknown!r}"
            )
        highest = max([*around, *backend.get_vocab(with_added_tokens=True).values()])
        if vocab_size is not None and highest >= vocab_size:
            raise InputError(
                f"{file} does not belong to this model: it gives ids up to {highest}, "
                f"and config.json's vocab_size is {vocab_size}"
            )
        limit = settings.get("model_max_length")
        if limit is not None and (type(limit) not in (int, float) or not limit >= 1):
            raise InputError(
                f"{settings_file}: model_max_length must be a positive number, not {limit!r}"
            )
        # 10**30 means "none"
        return cls(backend, None if limit is None or limit >= 10**9 else int(limit))

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
        """[CLS] first [SEP] second [SEP] for each pair; the longer text of a pair loses its end
        first."""
        for i, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(
                    f"pair number {i} (counted from 0) must be two texts, not {pair!r:.80}"
                )
            check_texts(pair, f"pair number {i}, ")
        texts = [text for pair in pairs for text in pair]
        pieces = iter(self.backend.encode_batch(texts, add_special_tokens=False))
        tokens = [self._tokens(list(pair)) for pair in zip(pieces, pieces, strict=True)]
        return self._told(tokens, truncation)

    def encode_words(
        self, sentences: Sequence[Sequence[str]], truncation: Truncation = "warn"
    ) -> list[Tokens]:
        """[CLS] words [SEP] for each sentence that is split already; `Tokens.words` maps its tokens
        to its words.

        A word that the normalisation empties (control characters, say) has no token at all.
        """
        for i, words in enumerate(sentences):
            if not isinstance(words, tuple | list):
                raise InputError(
                    f"sentence number {i} (counted from 0) must be a list of words, "
                    f"not {words!r:.80}"
                )
            check_texts(words, f"sentence number {i}, ")
        pieces = self.backend.encode_batch(
            list(sentences), is_pretokenized=True, add_special_tokens=False
        )
        return self._told([self._tokens([words]) for words in pieces], truncation)

    def token_id(self, token: str) -> int | None:
        """The id of one token, such as "[MASK]"."""
        return self.backend.token_to_id(token)

    def token(self, token_id: int) -> str:
        """The token of an id. A model may have embeddings for more ids than there are tokens."""
        return self.backend.id_to_token(token_id) or f"[no token {token_id}]"

    def lower_first(self) -> None:
        """Lower-case every text before anything else, as sentence-transformers' `do_lower_case`
        asks."""
        ours = self.backend.normalizer
        self.backend.normalizer = Normalizers([Lowercase(), ours]) if ours else Lowercase()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and vocab.txt. Raises InputError if the disk
        refuses."""
        with replacing(folder / "tokenizer.json") as beside:
            beside.write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        highest = max(self.backend.get_vocab(with_added_tokens=True).values())
        lines = [self.token(i) for i in range(highest + 1)]  # a line's number is its token's id
        with replacing(folder / "vocab.txt") as beside:
            beside.write_text(
                "".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n"
            )
        settings: dict[str, Any] = {"tokenizer_class": "BertTokenizer"}
        # BertTokenizer builds its own from these
        if isinstance(ours := self.backend.normalizer, BertNormalizer):
            settings["do_lower_case"] = ours.lowercase
            settings["strip_accents"] = ours.strip_accents
            settings["tokenize_chinese_chars"] = ours.handle_chinese_chars
        # the class that takes tokenizer.json as it is; it does not know of BERT's token types by
        # itself
        else:
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        if self.max_length is not None:
            settings["model_max_length"] = self.max_length
        names = {
            f"{token[1:-1].lower()}_token": token
            for token in SPECIAL_TOKENS
            if self.token_id(token) is not None
        }
        write_json(folder / "tokenizer_config.json", settings | names)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """As `encode`, for texts that have been checked, and silent about what was cut off."""
        pieces = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [self._tokens([text]) for text in pieces]

    def limited(self, *limits: int | None) -> "Tokenizer":
        """The same tokenizer with the smallest of its own and these limits."""
        known = [limit for limit in (self.max_length, *limits) if limit is not None]
        return Tokenizer(self.backend, min(known, default=None))

    def _tokens(self, parts: list[tokenizers.Encoding]) -> Tokens:
        """One text's or one pair's pieces, cut to the limit, with [CLS] and [SEP].

        The library could cut by itself, but only by a setting of the tokenizer, which other
        threads would see.
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

    def _told(self, tokens: list[Tokens], truncation: Truncation) -> list[Tokens]:
        """The same tokens, after saying how much the limit has cut off."""
        if truncation not in TRUNCATIONS:
            words = ", ".join(TRUNCATIONS)
            raise InputError(f"truncation {truncation!r} is not one of {words}")
        truncated = Truncated(self.max_length)
        truncated.add(tokens)
        if truncated.texts and truncation == "error":
            raise InputError(truncated.message(len(tokens)))
        if truncated.texts and truncation == "warn":
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


def word_piece(vocabulary: Path, settings: dict) -> tokenizers.Tokenizer:
    """BERT's tokenizer, built from a vocabulary of one token a line and the settings of
    tokenizer_config.json.

    Without a `do_lower_case` the vocabulary itself tells: one with capital letters is a cased one.
    """
    lines = split_lines(read_text(vocabulary))
    while lines and not lines[-1]:
        lines.pop()
    ids = {token: i for i, token in enumerate(lines)}
    if missing := [token for token in SPECIAL_TOKENS if token not in ids]:
        raise InputError(f"{vocabulary} is not a BERT vocabulary: {', '.join(missing)} missing")
    has_capitals = any(token != token.lower() for token in ids if not token.startswith("["))
    switches: dict[str, Any] = {
        "do_lower_case": not has_capitals,
        "strip_accents": None,  # as do_lower_case
        "tokenize_chinese_chars": True,
    }
    for key in switches:
        if (value := settings.get(key)) is not None:
            if type(value) is not bool:
                file = vocabulary.with_name("tokenizer_config.json")
                raise InputError(f"{file}: {key} must be true or false, not {value!r}")
            switches[key] = value
    backend = tokenizers.Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.add_special_tokens(list(SPECIAL_TOKENS))  # in a text, "[MASK]" means the token
    backend.normalizer = BertNormalizer(
        lowercase=switches["do_lower_case"],
        strip_accents=switches["strip_accents"],
        handle_chinese_chars=switches["tokenize_chinese_chars"],
    )
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    backend.decoder = tokenizers.decoders.WordPiece()
    return backend


def check_texts(texts: Sequence[str], where: str = "") -> None:
    """`check_text` for each text. where: put before "text number ..."."""
    if isinstance(texts, str):  # whose characters would be taken for the texts
        raise InputError(f"a list of texts is read here, not one text: {texts!r:.80}")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.isascii():
            check_text(text, f"{where}text number {i}")


def check_text(text: str, name: str) -> str:
    """The text. Raises InputError, with the text's name or number, for what is no text."""
    if not isinstance(text, str):
        raise InputError(
            f"{name} (counted from 0) is of type {type(text).__name__}, not str: {text!r:.80}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} (counted from 0) holds half a surrogate pair, which is no character"
        ) from error
    return text
