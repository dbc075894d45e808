"""tokenizer.json, vocab.txt and tokenizer_config.json <-> a tokenizer of the tokenizers library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing

from minibert.files import InputError, read_object, read_text, split_lines, write_json, write_text

ROLES = ("pad", "unk", "cls", "sep", "mask")  # of special tokens
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # BERT's, in this order
ROBERTAS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")


def read_tokenizer(
    folder: Path, vocab_size: int | None = None
) -> tuple[tokenizers.Tokenizer, int | None, dict[str, str]]:
    """The tokenizer of a model folder, the most tokens that it allows a text, and its special
    tokens by their roles.

    It is that of tokenizer.json, or else BERT's WordPiece over vocab.txt. vocab_size: how many word
    embeddings the model has.
    Raises InputError if there is no tokenizer, if a file is damaged, or if the tokenizer gives ids
    that the model has no embedding for.
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
        raise InputError(f"{file} is no BERT tokenizer: it puts no [CLS] and [SEP] around a text")
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
    return backend, limit, special_tokens(backend, settings)


def special_tokens(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """A tokenizer's special tokens by their roles; without one that its vocabulary lacks.

    settings: those of tokenizer_config.json, which may name them. Else they are BERT's or
    RoBERTa's.
    """
    found: dict[str, str] = {}
    for role, *usual in zip(ROLES, SPECIAL_TOKENS, ROBERTAS, strict=True):
        named = (settings or {}).get(f"{role}_token")
        named = named.get("content") if isinstance(named, dict) else named  # with or without flags
        names = [named, *usual] if isinstance(named, str) else usual
        known = (name for name in names if backend.token_to_id(name) is not None)
        if (token := next(known, None)) is not None:
            found[role] = token
    return found


def for_words(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer that reads words which are split already. RoBERTa's words have their space
    before them, and the splitting took it."""
    if not isinstance(backend.pre_tokenizer, ByteLevel):
        return backend
    with_space = tokenizers.Tokenizer.from_str(backend.to_str())
    with_space.pre_tokenizer.add_prefix_space = True
    return with_space


def word_piece(vocabulary: Path, settings: dict) -> tokenizers.Tokenizer:
    """BERT's tokenizer, from a vocabulary of one token a line and tokenizer_config.json's settings.

    If these have no `do_lower_case`, a vocabulary with capital letters is taken for a cased one.
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
    return bert_tokenizer(
        ids,
        BertNormalizer(
            lowercase=switches["do_lower_case"],
            strip_accents=switches["strip_accents"],
            handle_chinese_chars=switches["tokenize_chinese_chars"],
        ),
    )


def bert_tokenizer(ids: dict[str, int], normalizer: BertNormalizer) -> tokenizers.Tokenizer:
    """BERT's tokenizer with a vocabulary, which must hold SPECIAL_TOKENS."""
    backend = tokenizers.Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.add_special_tokens(list(SPECIAL_TOKENS))  # in a text, "[MASK]" means the token
    backend.normalizer = normalizer
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
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
