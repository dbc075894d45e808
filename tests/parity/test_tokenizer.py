"""Token ids against transformers' tokenizers, on 2,000 real texts and on texts made to be hard.

Evidence: `AutoTokenizer`, which reads the same tokenizer.json; `BertTokenizerLegacy`, which is the
original algorithm in plain Python and shares no code with what we run; and ids that other projects
recorded. Our tokenizer is built twice, from tokenizer.json and from vocab.txt alone.
"""
# ruff: noqa: RUF001 - letters that look like others are what is tested

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from minibert.tokenizer import Form, Tokenizer, Tokens
from tools.golden import PAIR_IDS, TOKEN_IDS

HARD = [
    "",
    " ",
    "\t\r\n \u00a0\u3000\u2003",
    "Québec naïve façade Ångström crème brûlée",
    unicodedata.normalize("NFD", "Québec naïve façade Ångström Việt Nam"),
    "\u0301 a combining mark alone, and three on one letter: e\u0301\u0327\u0323",
    "a\u0300" * 120,
    "北京大学 is in 北京",
    "日本語のテキスト、カタカナ",
    "한국어 문장 " + unicodedata.normalize("NFD", "한국어"),
    "𠮷野家 with a character beyond 16 bits",
    "ｆｕｌｌ　ｗｉｄｔｈ １２３",
    "👩\u200d👩\u200d👧\u200d👦 a family, 👍🏽 a thumb, 🇫🇷 a flag, ❤\ufe0f a heart",
    "zero\u200bwidth, joined\u200dhere, byte order\ufeffmark, soft\u00adhyphen",
    "\x00\x01\x08 control \x1f\x7f\x85\x9f characters \ufffd",
    "line\u2028separator and paragraph\u2029separator",
    "שלום עולם, نص بالعربية مع تَشْكِيل",
    "\u202eright to left override\u202c",
    "हिन्दी में, ภาษาไทย, Ελληνικά ΣΊΣΥΦΟ, кириллица Й",
    "İstanbul ıssız ẞ ß Ǆ ﬁ ﬂ ½ ² Ⅷ 𝒜",
    "private \ue000 use",
    "don't   stop—now… “quotes” «guillemets» $100 + 20% = #1 @user http://t.co/x?y=z&w `^~|<>_",
    "x" * 99,
    "x" * 100,
    "x" * 101,  # longer than 100 characters: [UNK]
    "x" * 5000,
    "a" * 99 + "é",
    "0" * 200,
    "a [MASK] in text, [CLS] [SEP] [PAD] [UNK] too, and joined[MASK]joined",
    "[mask] [ MASK ] [MASK [[MASK]]",
    "a sentence of many words " * 200,
]


@pytest.fixture(scope="module")
def theirs(minilm: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(minilm)


@pytest.fixture(scope="module")
def ours(minilm: Path) -> Tokenizer:
    return unlimited(Tokenizer.from_folder(minilm))


@pytest.fixture(scope="module")
def from_vocabulary(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Built from MiniLM's vocab.txt, with no other file beside it."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    return unlimited(Tokenizer.from_folder(folder))


def unlimited(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.max_length = None
    return tokenizer


def check(texts: list[str], found: list[Tokens], expected: list[list[int]]) -> None:
    for text, tokens, ids in zip(texts, found, expected, strict=True):
        assert tokens.ids == ids, f"{text[:100]!r}"


def test_ids_of_real_texts(
    ours: Tokenizer, theirs: PreTrainedTokenizerBase, sentences: list[str]
) -> None:
    assert len(set(sentences)) == 2000
    check(sentences, ours.encode(sentences), theirs(sentences)["input_ids"])


def test_ids_of_hard_texts(ours: Tokenizer, theirs: PreTrainedTokenizerBase) -> None:
    check(HARD, ours.encode(HARD), theirs(HARD)["input_ids"])


def test_ids_of_the_original_algorithm(ours: Tokenizer, minilm: Path, sentences: list[str]) -> None:
    original, texts = BertTokenizerLegacy(str(minilm / "vocab.txt")), HARD + sentences
    check(texts, ours.encode(texts), [original(text)["input_ids"] for text in texts])


@pytest.mark.parametrize(
    ("text", "ours_like", "original_like"),
    [
        # Python's lower() knows a word's last sigma, Rust's takes each letter alone
        ("ΣΊΣΥΦΟΣ", "σισυφοσ", "σισυφος"),
        # a code point that will never be a character: only the original drops it
        ("a\U0010ffffb", "[UNK]", "ab"),
    ],
)
def test_where_the_library_departs_from_the_original(
    ours: Tokenizer,
    theirs: PreTrainedTokenizerBase,
    minilm: Path,
    text: str,
    ours_like: str,
    original_like: str,
) -> None:
    """The two departures known to us; transformers has them too."""
    original = BertTokenizerLegacy(str(minilm / "vocab.txt"))
    assert (
        ours.encode([text])[0].ids == theirs(text)["input_ids"] == ours.encode([ours_like])[0].ids
    )
    assert (
        original(text)["input_ids"]
        == original(original_like)["input_ids"]
        != ours.encode([text])[0].ids
    )


def test_the_vocabulary_alone_gives_the_same_ids(
    ours: Tokenizer, from_vocabulary: Tokenizer, sentences: list[str]
) -> None:
    texts = HARD + sentences
    assert from_vocabulary.encode(texts) == ours.encode(texts)
    pairs = list(zip(sentences[:200], HARD * 7, strict=False))
    assert from_vocabulary.encode_pairs(pairs) == ours.encode_pairs(pairs)
    words = [text.split() for text in texts]
    assert from_vocabulary.encode_words(words) == ours.encode_words(words)
    assert from_vocabulary.backend.get_vocab() == ours.backend.get_vocab()


@pytest.fixture(scope="module", params=["minilm", "shared"])
def vocabulary(request: pytest.FixtureRequest) -> Tokenizer:
    """Built from MiniLM's vocab.txt, or from bert-base-uncased's."""
    if request.param == "minilm":
        return request.getfixturevalue("from_vocabulary")
    return Tokenizer.from_folder(request.getfixturevalue("shared") / "data/bert-base-uncased")


@pytest.mark.parametrize(("text", "ids"), TOKEN_IDS.items())
def test_recorded_ids(vocabulary: Tokenizer, text: str, ids: list[int]) -> None:
    assert vocabulary.encode([text])[0].ids == ids


def test_recorded_ids_of_a_pair(vocabulary: Tokenizer) -> None:
    pair, ids, types = PAIR_IDS
    (tokens,) = vocabulary.encode_pairs([pair])
    assert (tokens.ids, tokens.type_ids) == (ids, types)


@pytest.mark.parametrize("limit", [None, 32, 7])
def test_pairs_with_their_token_types(
    ours: Tokenizer, theirs: PreTrainedTokenizerBase, sentences: list[str], limit: int | None
) -> None:
    """Also cut to a limit, where the longer text loses its end first."""
    firsts, seconds = sentences[:400] + HARD, sentences[400:800] + HARD[::-1]
    limits = {} if limit is None else {"truncation": "longest_first", "max_length": limit}
    expected = theirs(firsts, seconds, **limits)
    limited = Tokenizer(ours.backend, limit)
    pairs = list(zip(firsts, seconds, strict=True))
    found = limited.encode_pairs(pairs, "silent")
    check([f"{a} | {b}" for a, b in pairs], found, expected["input_ids"])
    assert [tokens.type_ids for tokens in found] == expected["token_type_ids"]


@pytest.mark.parametrize("limit", [128, 16, 3])
def test_texts_cut_to_a_limit(
    ours: Tokenizer, theirs: PreTrainedTokenizerBase, sentences: list[str], limit: int
) -> None:
    texts = sentences[:400] + HARD
    found = Tokenizer(ours.backend, limit).encode(texts, "silent")
    check(texts, found, theirs(texts, truncation=True, max_length=limit)["input_ids"])
    whole = theirs(texts)["input_ids"]
    assert [tokens.lost for tokens in found] == [max(0, len(ids) - limit) for ids in whole]


def test_words_that_are_split_already(
    ours: Tokenizer, theirs: PreTrainedTokenizerBase, sentences: list[str]
) -> None:
    """Ids, and the word that each token is a piece of; a word of control characters alone has
    none."""
    texts = [text.split(" ") for text in sentences[:800]] + [
        ["\x00", "a", "", "\u200d", "Québec's", "[MASK]", "x" * 101]
    ]
    expected = theirs(texts, is_split_into_words=True)
    found = ours.encode_words(texts)
    check([" ".join(words) for words in texts], found, expected["input_ids"])
    assert [tokens.words for tokens in found] == [expected.word_ids(i) for i in range(len(texts))]
    assert {0, 2, 3}.isdisjoint(found[-1].words)
    assert {1, 4, 5, 6} <= set(found[-1].words)


@pytest.mark.parametrize(("limit", "overlap"), [(48, 16), (32, 0), (12, 6), (512, 128)])
@pytest.mark.parametrize("form", ["text", "words", "pair"])
def test_windows(
    ours: Tokenizer,
    theirs: PreTrainedTokenizerBase,
    sentences: list[str],
    form: Form,
    limit: int,
    overlap: int,
) -> None:
    """Ids, types, words and offsets of each window; and all windows together are the whole text."""
    texts = [" ".join(sentences[i : i + 1 + i % 4]) for i in range(40)] + HARD[3:6]
    texts = [" ".join(text.split()) for text in texts]
    inputs: list[Any] = list(texts)
    options: dict[str, Any] = {"text": texts, "truncation": True}
    if form == "words":
        inputs = [text.split(" ") for text in texts]
        options = {"text": inputs, "is_split_into_words": True, "truncation": True}
    elif form == "pair":
        inputs = [("Who?", text) for text in texts]
        options = {"text": ["Who?"] * len(texts), "text_pair": texts, "truncation": "only_second"}
    expected = theirs(
        **options,
        max_length=limit,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = Tokenizer(ours.backend, limit).encode_windows(inputs, overlap, form)
    windows = [window for of_text in found for window in of_text]
    assert max(map(len, found)) > 1 or limit == 512
    assert [window.ids for window in windows] == expected["input_ids"]
    assert [window.type_ids for window in windows] == expected["token_type_ids"]
    assert [window.offsets for window in windows] == expected["offset_mapping"]
    assert [window.words for window in windows] == [
        expected.word_ids(i) for i in range(len(windows))
    ]
    before = 4 if form == "pair" else 1  # [CLS] who ? [SEP]
    whole = Tokenizer(ours.backend).encode_windows(inputs, 0, form)
    for of_text, (all_of_it,) in zip(found, whole, strict=True):
        parts = [window.ids[before:-1] for window in of_text]
        merged = parts[0] + [number for part in parts[1:] for number in part[overlap:]]
        assert merged == all_of_it.ids[before:-1]
