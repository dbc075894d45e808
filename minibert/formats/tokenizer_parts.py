"""Guards the tokenizers library against a tokenizer.json that was not written for BERT.

The library trusts its file. It takes whatever memory a padding of fixed length asks for, it lets
forty replacements double a text forty times, and it panics over parts that do not fit each other.
So only parts are let in that tokenizers of these families have, and only as many.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tokenizers

from minibert.files import InputError

# The parts of a tokenizer.json: the types that are read, and the key under which a Sequence of this
# part has its own parts.
PARTS = {
    "normalizer": (
        "BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace "
        "Strip StripAccents",
        "normalizers",
    ),
    "pre_tokenizer": (
        "BertPreTokenizer ByteLevel Digits Metaspace Punctuation Split UnicodeScripts Whitespace "
        "WhitespaceSplit",
        "pretokenizers",
    ),
    "post_processor": (
        "BertProcessing ByteLevel RobertaProcessing TemplateProcessing",
        "processors",
    ),
    "decoder": (
        "BPEDecoder ByteFallback ByteLevel Fuse Metaspace Replace Strip WordPiece",
        "decoders",
    ),
}
MOST_PARTS = 8  # in a Sequence; the longest that we know, ALBERT's normalizer, has 7
# What stands in the place of a single match, in characters. With MOST_PARTS this bounds how much
# longer a text can become.
MOST_PUT_IN = 3
MOST_PRECOMPILED = 100  # bytes; Unicode's longest, of U+FDFA, has 33
MOST_CHARACTERS = 1000  # of a word that WordPiece splits, in time that grows with their square


def build_tokenizer(content: Mapping[str, Any], source: str) -> tokenizers.Tokenizer:
    """The tokenizer that a tokenizer.json describes, without padding and truncation, which are done
    here. source: the file's name. Raises InputError, naming the part, for what is not read here,
    and for what the library refuses."""
    for key, (known, inner) in PARTS.items():
        parts = list(_parts(content.get(key), inner, f"{source}: {key}"))
        if len(parts) > MOST_PARTS:
            raise InputError(
                f"{source}: {key} has {len(parts)} parts, and at most {MOST_PARTS} are read"
            )
        for part in parts:
            if part["type"] not in known.split():
                raise InputError(
                    f"{source}: {key} is of type {part['type']!r:.80}; read here: "
                    f"{', '.join([*known.split(), 'Sequence'])}"
                )
            _check(part, f"{source}: {key}")
    most = _object(content.get("model"), f"{source}: model").get("max_input_chars_per_word")
    if type(most) is int and most > MOST_CHARACTERS:
        raise InputError(
            f"{source}: max_input_chars_per_word is {most!s:.80}, and at most {MOST_CHARACTERS} "
            "are read; BERT has 100"
        )
    with refusals(source):
        bounded = {**content, "padding": None, "truncation": None}
        return tokenizers.Tokenizer.from_str(json.dumps(bounded))


@contextmanager
def refusals(source: str) -> Iterator[None]:
    """What the tokenizers library refuses in this block becomes an InputError that names the
    tokenizer's file."""
    try:
        yield
    except BaseException as error:
        # The library raises Exception itself. Its PanicException is no Exception, and has no module
        # that it could be imported from.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{source}: the tokenizers library refuses it: {error!s:.300}") from error


def _parts(part: Any, inner: str, where: str) -> Iterator[dict[str, Any]]:
    """The single parts of a normalizer, say: itself, or those of a Sequence."""
    if part is None:
        return
    if not isinstance(_object(part, where).get("type"), str):
        raise InputError(f"{where} has no type: a text such as 'Sequence'")
    if part["type"] != "Sequence":
        yield part
        return
    several = part.get(inner)
    if not isinstance(several, list):
        raise InputError(f"{where}: a Sequence needs a list, {inner}")
    for one in several:
        yield from _parts(one, inner, where)


def _check(part: dict[str, Any], where: str) -> None:
    """Raise InputError for a part that could make texts longer and longer."""
    name, put_in = part["type"], part.get("content", part.get("prepend"))
    if name in ("Replace", "Prepend") and not (
        isinstance(put_in, str) and len(put_in) <= MOST_PUT_IN
    ):
        raise InputError(
            f"{where}: {name} puts {put_in!r:.80} into texts; read here: at most {MOST_PUT_IN} "
            "characters"
        )
    if name == "Precompiled":
        _check_charsmap(part.get("precompiled_charsmap"), where)
    if name == "TemplateProcessing" and (
        _texts(part.get("single")) != ["A"] or _texts(part.get("pair")) != ["A", "B"]
    ):
        raise InputError(
            f"{where}: a TemplateProcessing is read here if its single has the text A once, and "
            "its pair A and B once each"
        )


def _check_charsmap(charsmap: Any, where: str) -> None:
    """Raise InputError for SentencePiece's table of characters, in base64, if it is damaged.

    It is the size of a trie in bytes (4 bytes, little-endian), the trie, and the texts that it
    points to, each of which ends with a zero byte.
    """
    try:
        table = base64.b64decode(charsmap, validate=True)
    except (TypeError, ValueError):
        table = b""
    size = int.from_bytes(table[:4], "little")
    texts = table[4 + size :].split(b"\0")
    if len(table) < 4 + size or not size or max(map(len, texts)) > MOST_PRECOMPILED:
        raise InputError(f"{where}: precompiled_charsmap is no table of SentencePiece")


def _texts(template: Any) -> list[str]:
    """The texts that a template names, such as A and B."""
    pieces = template if isinstance(template, list) else []
    named = [p["Sequence"] for p in pieces if isinstance(p, dict) and "Sequence" in p]
    return sorted(str(text.get("id") if isinstance(text, dict) else text) for text in named)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a JSON object, not {value!r:.80}")
    return value
