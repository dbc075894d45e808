"""tokenizer.json, vocab.txt and tokenizer_config.json <-> a tokenizer of the tokenizers library."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing

from minibert.files import (
    InputError,
    read_lines,
    read_object,
    write_json,
    write_text,
)
from minibert.formats.tokenizer_parts import build_tokenizer, refusals

ROLES = ("pad", "unk", "cls", "sep", "mask")  # of special tokens
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # BERT's, in this order
ROBERTAS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
# Switches of tokenizer_config.json, and what the tokenizers library calls them.
SWITCHES = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def read_tokenizer(
    folder: Path, vocab_size: int | None = None
) -> tuple[tokenizers.Tokenizer, int | None, dict[str, str], str]:
    """The tokenizer of a model folder, the most tokens that it allows a text, its special tokens by
    their roles, and the name of its file.

    It is that of tokenizer.json, or else BERT's WordPiece over vocab.txt and added_tokens.json. The
    switches of tokenizer_config.json win over those of tokenizer.json, as in transformers.
    vocab_size: how many word embeddings the model has.
    Raises InputError if there is no tokenizer, if a file is damaged, or if the tokenizer gives ids
    that the model has no embedding for.
    """
    file, vocabulary, settings_file = (
        folder / name for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
    )
    settings = read_object(settings_file) if settings_file.exists() else {}
    content: dict[str, Any] = {}
    if file.exists():
        content = read_object(file)
        backend = build_tokenizer(content, str(file))
        if isinstance(backend.normalizer, BertNormalizer) and is_word_piece(settings):
            backend.normalizer = switched(backend.normalizer, settings, settings_file)
    elif vocabulary.exists():
        file, backend = vocabulary, word_piece(vocabulary, settings)
    else:
        raise InputError(f"{folder} has neither tokenizer.json nor vocab.txt")
    with refusals(str(file)):
        alone, pair = backend.encode(""), backend.encode("", "")  # [CLS] [SEP], [CLS] [SEP] [SEP]
    around = alone.ids + pair.ids
    if not alone.ids or not pair.ids:
        raise InputError(f"{file} is no BERT tokenizer: it puts no [CLS] and [SEP] around a text")
    if any(alone.type_ids):
        raise InputError(
            f"{file}: the post_processor gives a text alone the token type {max(alone.type_ids)}, "
            "and it has the type 0"
        )
    warn_of_left(content, settings, folder)
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
    limit = None if limit is None or limit >= 10**9 else int(limit)  # 10**30 means "none"
    return backend, limit, special_tokens(backend, settings), str(file)


def warn_of_left(content: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> None:
    """Warn of padding or cutting on the left, which tokenizer_config.json or else tokenizer.json
    asks for, and which is not done here."""
    for part, effect in (
        ("padding", "with it, transformers counts the padding before a text as positions, so that "
         "a vector depends on the batch. Here no padding is counted"),
        ("truncation", "with it, transformers keeps the end of a long text. Here its beginning is "
         "kept"),
    ):  # fmt: skip
        asked = content.get(part)
        side = asked.get("direction") if isinstance(asked, dict) else None
        if str(settings.get(f"{part}_side") or side).lower() == "left":
            warnings.warn(f"{folder}: the tokenizer's {part}_side is left: {effect}", stacklevel=4)


def special_tokens(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """A tokenizer's special tokens by their roles; without one that its vocabulary lacks.

    settings: those of tokenizer_config.json, which may name them. Else they are BERT's or
    RoBERTa's.
    """
    found: dict[str, str] = {}
    for role, *usual in zip(ROLES, SPECIAL_TOKENS, ROBERTAS, strict=True):
        names = (named(role, settings or {}), *usual)
        known = (name for name in names if name and backend.token_to_id(name) is not None)
        if (token := next(known, None)) is not None:
            found[role] = token
    return found


def named(role: str, settings: Mapping[str, Any]) -> str | None:
    """The special token that tokenizer_config.json names for a role."""
    token = settings.get(f"{role}_token")
    token = token.get("content") if isinstance(token, dict) else token  # with or without flags
    return token if isinstance(token, str) else None


def readable(token: str, backend: tokenizers.Tokenizer) -> str:
    """A token as text: a byte-level tokenizer's "Ġnew" is "new". A token that is only a part of a
    character stays as it is."""
    with refusals("the tokenizer"):
        text = backend.decoder.decode([token]).strip() if backend.decoder else token
    return token if not text or "\ufffd" in text else text


def for_words(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer that reads words which are split already. RoBERTa's words have their space
    before them, and the splitting took it."""
    if not isinstance(backend.pre_tokenizer, ByteLevel):
        return backend
    with_space = tokenizers.Tokenizer.from_str(backend.to_str())
    with_space.pre_tokenizer.add_prefix_space = True
    return with_space


def is_word_piece(settings: Mapping[str, Any]) -> bool:
    """Whether the class of transformers that tokenizer_config.json names splits texts into words as
    BERT does. BertJapaneseTokenizer, say, does not."""
    name = str(settings.get("tokenizer_class") or "BertTokenizer")
    return re.fullmatch(r"(\w*Bert|Electra|PreTrained)Tokenizer(Fast)?", name) is not None


def switched(normalizer: BertNormalizer, settings: Mapping[str, Any], file: Path) -> BertNormalizer:
    """A normalizer as tokenizer_config.json switches it; null switches nothing. Raises InputError
    for what is neither true nor false."""
    for key, ours in SWITCHES.items():
        if (value := settings.get(key)) is not None:
            if type(value) is not bool:
                raise InputError(f"{file}: {key} must be true or false, not {value!r}")
            setattr(normalizer, ours, value)
    return normalizer


def word_piece(vocabulary: Path, settings: dict) -> tokenizers.Tokenizer:
    """BERT's tokenizer, from a vocabulary of one token a line, added_tokens.json beside it, and
    tokenizer_config.json's settings.

    If these have no `do_lower_case`, a vocabulary is taken for a cased one if more than a hundredth
    of its tokens have capital letters. Warns of that, since transformers would lower texts.
    """
    file = vocabulary.with_name("tokenizer_config.json")
    if not is_word_piece(settings):
        raise InputError(
            f"{file}: tokenizer_class is {settings['tokenizer_class']!r:.200}, which splits texts "
            "into words as BERT does not. Without a tokenizer.json it is not read here"
        )
    lines = read_lines(vocabulary)
    while lines and not lines[-1]:
        lines.pop()
    ids = {token: i for i, token in enumerate(lines)}
    special = [
        named(role, settings) or usual for role, usual in zip(ROLES, SPECIAL_TOKENS, strict=True)
    ]
    if missing := [token for token in special if token not in ids]:
        raise InputError(f"{vocabulary} is not a BERT vocabulary: {', '.join(missing)} missing")
    words = [token for token in ids if not token.startswith("[") and token not in special]
    is_cased = sum(word != word.lower() for word in words) > len(words) / 100
    if is_cased and settings.get("do_lower_case") is None:
        warnings.warn(
            f"{vocabulary} has words with capital letters, so texts are not lowered. To say it, or "
            f"the opposite, give {file.name} a do_lower_case",
            stacklevel=2,
        )
    normalizer = switched(BertNormalizer(lowercase=not is_cased), settings, file)
    backend = bert_tokenizer(ids, normalizer, special)
    if (added := vocabulary.with_name("added_tokens.json")).exists():
        add_tokens(backend, added)
    return backend


def add_tokens(backend: tokenizers.Tokenizer, file: Path) -> None:
    """Add the tokens of an added_tokens.json, each of which has an id. Raises InputError if the ids
    do not follow those of the vocabulary."""
    wanted = read_object(file)
    if not all(type(token_id) is int for token_id in wanted.values()):
        raise InputError(f"{file}: must give each token its id, a whole number")
    backend.add_tokens(sorted(wanted, key=wanted.__getitem__))
    for token, token_id in wanted.items():
        if (ours := backend.token_to_id(token)) != token_id:
            raise InputError(
                f"{file}: {token!r:.80} has the id {token_id}, and after the vocabulary's it is "
                f"{ours}"
            )


def bert_tokenizer(
    ids: dict[str, int], normalizer: BertNormalizer, special: Sequence[str] = SPECIAL_TOKENS
) -> tokenizers.Tokenizer:
    """BERT's tokenizer with a vocabulary. special: its tokens for ROLES."""
    _, unknown, cls, sep, _ = special
    backend = tokenizers.Tokenizer(WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    backend.add_special_tokens(list(special))  # in a text, "[MASK]" means the token
    backend.normalizer = normalizer
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, ids[token]) for token in (cls, sep)],
    )
    backend.decoder = tokenizers.decoders.WordPiece()
    return backend


def write_tokenizer(
    backend: tokenizers.Tokenizer,
    limit: int | None,
    special: Mapping[str, str],
    token_types: bool,
    folder: Path,
) -> None:
    """Write tokenizer.json, tokenizer_config.json and, of WordPiece, vocab.txt.

    special: the special tokens by their roles. token_types: whether the model tells a pair's two
    texts apart by token types. Raises InputError if the disk refuses.
    """
    write_text(folder / "tokenizer.json", backend.to_str(pretty=True))
    if isinstance(backend.model, WordPiece):
        highest = max(backend.get_vocab(with_added_tokens=True).values())
        tokens = [backend.id_to_token(i) or f"[no token {i}]" for i in range(highest + 1)]
        # A line's number is its token's id.
        write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in tokens))
    settings: dict[str, Any]
    ours = backend.normalizer
    if isinstance(ours, BertNormalizer) and isinstance(backend.model, WordPiece):
        settings = {
            "tokenizer_class": "BertTokenizer",  # which builds its own normalizer from these
            "do_lower_case": ours.lowercase,
            "strip_accents": ours.strip_accents,
            "tokenize_chinese_chars": ours.handle_chinese_chars,
        }
    else:
        # It takes tokenizer.json as it is.
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= common_settings(limit, special, token_types)
    write_json(folder / "tokenizer_config.json", settings)


def common_settings(
    limit: int | None, special: Mapping[str, str], token_types: bool
) -> dict[str, Any]:
    """The settings that a tokenizer of transformers has, of whatever class. Arguments as of
    `write_tokenizer`."""
    types = ["token_type_ids"] if token_types else []
    settings: dict[str, Any] = {"model_input_names": ["input_ids", *types, "attention_mask"]}
    if limit is not None:
        settings["model_max_length"] = limit
    return settings | {f"{role}_token": token for role, token in special.items()}
