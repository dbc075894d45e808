"""Parts of a tokenizer.json that are well-formed JSON, and absurd in their place or everywhere.

Blind changes of a tokenizer.json are mostly refused by the library's parser. These pass it.
"""

import json
import random
from typing import Any

from tools.faults.mutate import mutate_json

REGEXES = ("a*", "(a+)+$", "", "(", "\\p{L}+", " {2,}", "(?=x)", ".")
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
CHARSMAPS = ("", "AAAA", "AAAAAAAAAAA=", "BAAAAAAAAAAA", "BAAAAP////9hAA==", "not base64", None)
NORMALIZERS: tuple[Any, ...] = (
    None,
    *({"type": kind} for kind in ("NFD", "NFKC", "Nmt", "StripAccents", "Lowercase", "ByteLevel")),
    *({"type": "Precompiled", "precompiled_charsmap": charsmap} for charsmap in CHARSMAPS),
    *({"type": "Replace", "pattern": {"Regex": regex}, "content": ""} for regex in REGEXES),
    {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "b"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10**5},
    {"type": "Prepend", "prepend": "a" * 10**5},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Sequence", "normalizers": []},
    {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60,
    },
    {"normalizers": [{"type": "Lowercase"}] * 3},
    ["Lowercase"],
)
PRE_TOKENIZERS: tuple[Any, ...] = (
    None,
    *({"type": kind} for kind in ("BertPreTokenizer", "Whitespace", "UnicodeScripts", "None")),
    *({"type": "FixedLength", "length": length} for length in (0, 1, 2**63)),
    *(
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": how, "invert": invert}
        for regex in REGEXES
        for how in BEHAVIORS
        for invert in (True, False)
    ),
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "ab", "prepend_scheme": "first", "split": False},
    {"type": "CharDelimiterSplit", "delimiter": "a"},
    {"type": "Punctuation", "behavior": "Isolated"},
    {"type": "Digits", "individual_digits": True},
    {"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}] * 3},
    {
        "type": "Sequence",
        "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": True, "use_regex": False}] * 40,
    },
)


def template(single: str, pair: str, tokens: dict[str, list[int]]) -> dict[str, Any]:
    """A TemplateProcessing; the texts are A and B, all else are special tokens. B and Z have the
    token type 1."""

    def pieces(text: str) -> list[dict[str, Any]]:
        return [
            {
                "Sequence" if name in "AB" else "SpecialToken": {
                    "id": name,
                    "type_id": int(name in "BZ"),
                }
            }
            for name in text.split()
        ]

    special = {
        name: {"id": name, "ids": ids, "tokens": [name] * len(ids)} for name, ids in tokens.items()
    }
    return {
        "type": "TemplateProcessing",
        "single": pieces(single),
        "pair": pieces(pair),
        "special_tokens": special,
    }


POST_PROCESSORS: tuple[Any, ...] = (
    None,
    template("A", "A B", {}),
    template("x A x", "x A x B x", {}),
    template("x A x", "x A x B x", {"x": [2]}),
    template("x A Z", "x A x B Z", {"x": [2], "Z": [3]}),
    template("x A x", "x A x B x", {"x": [2] * 10**5}),
    template("x A x", "x A x B x", {"x": [2**32 - 1]}),
    template("x A", "x A A A B", {"x": []}),
    template(" ".join("A" * 2000), "A B", {"x": [2]}),
    template("x", "x x", {"x": [2]}),
    {"type": "BertProcessing", "sep": ["x", 3], "cls": ["y", 2]},
    {"type": "BertProcessing", "sep": ["x", 2**31], "cls": ["y", 2]},
    {
        "type": "RobertaProcessing",
        "sep": ["x", 3],
        "cls": ["y", 2],
        "trim_offsets": True,
        "add_prefix_space": True,
    },
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Sequence", "processors": [template("x A A", "A B", {"x": [2]})] * 40},
    {"type": "Sequence", "processors": [template("x A", "x A B", {"x": [2]})] * 4},
)
DECODERS: tuple[Any, ...] = (
    None,
    *({"type": kind} for kind in ("ByteLevel", "ByteFallback", "Fuse", "CTC")),
    {"type": "WordPiece", "prefix": "", "cleanup": True},
    {"type": "Strip", "content": "a", "start": 2**40, "stop": 2**40},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6},
    {"type": "BPEDecoder", "suffix": ""},
)
SIDE = {"direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
CATALOGUE: dict[str, tuple[Any, ...]] = {
    "normalizer": NORMALIZERS,
    "pre_tokenizer": PRE_TOKENIZERS,
    "post_processor": POST_PROCESSORS,
    "decoder": DECODERS,
    "padding": (
        {"strategy": {"Fixed": 2**63 - 1}, "pad_to_multiple_of": None, **SIDE},
        {"strategy": "BatchLongest", "pad_to_multiple_of": 2**62, **SIDE},
        {"strategy": {"Fixed": 10**9}, "pad_to_multiple_of": 0, **SIDE},
    ),
    "truncation": (
        {"direction": "Left", "max_length": 0, "strategy": "LongestFirst", "stride": 0},
        {"direction": "Right", "max_length": 1, "strategy": "OnlySecond", "stride": 2**40},
    ),
    "added_tokens": (
        [],
        [{"id": 2**32 - 1, "content": "a", "special": True, "normalized": False}],
        [{"id": 0, "content": "", "special": False, "normalized": True}],
        [{"id": n, "content": " ", "special": n % 2 == 0, "normalized": True} for n in range(9)],
    ),
}
# Entries of a model, of whatever type.
MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("WordPiece", "BPE", "Unigram", "WordLevel", None, "X"),
    "unk_token": (None, "", "[UNK]", "nothing"),
    "unk_id": (None, 0, 5, 2**40),
    "max_input_chars_per_word": (0, 1, 10**9, 2**64, -1),
    "continuing_subword_prefix": ("", None, "#" * 500, "a"),
    "end_of_word_suffix": ("", "</w>"),
    "dropout": (0.5, 1.0, 2.0),
    "byte_fallback": (True,),
    "fuse_unk": (True,),
    "merges": ([], [["a", "b"]], ["a b"], [["", ""]]),
    "vocab": ({}, [], {"a": 0}, {"a": 2**32 - 1}, {"": 0}, [["a", 0.0]], [["", 1e308]] * 3),
}


def exchange_parts(content: bytes, dice: random.Random) -> bytes:
    """Exchanges a whole part of a tokenizer.json for one of the catalogue, or changes any value."""
    try:
        document = json.loads(content)
        assert isinstance(document, dict)
    except (ValueError, RecursionError, AssertionError):
        return content
    if dice.random() < 0.2:
        return mutate_json(content, dice)
    model = document.get("model")
    if dice.random() < 0.25 and isinstance(model, dict):
        key = dice.choice(sorted(MODEL))
        document["model"] = {**model, key: dice.choice(MODEL[key])}
    else:
        key = dice.choice(sorted(CATALOGUE))
        document[key] = dice.choice(CATALOGUE[key])
    return json.dumps(document).encode()
