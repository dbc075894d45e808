"""tokenizer.py: the ids by both kinds of files, the limit, sentences that are split already, and
what is no text or no tokenizer."""

import copy
import errno
import json
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from minibert.formats.tokenizer import SPECIAL_TOKENS
from minibert.tokenizer import Tokenizer
from minibert.tokens import TruncationWarning

LETTERS = "abcdefghijklmnopqrstuvwxyz"
UNCASED = [
    *SPECIAL_TOKENS,
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    ".",
    ",",
    "hello",
    "world",
    "##ing",
    "\u4f60",
]
CASED = [*UNCASED, "H", "B", "Berlin", "\u00e9", "##\u00e9"]
CLS, SEP, UNK, MASK = 2, 3, 1, 4

TEXTS = [
    "hello world",
    "Hello, WORLD.",
    "H\u00e9llo",
    "helloing Berlin",
    "\u4f60\u4f60a",
    "[MASK] a",
    "",
    " \t\n",
    "x\u2028y\x1cz",
]
TEXTS += ["a\u0301", "e\u0301\ufffd", "\U0001f600 hello", "hello" * 40, "\x00a\u200db"]


def write_vocabulary(folder: Path, tokens: Sequence[str] = UNCASED, **settings: Any) -> Path:
    """A folder with a vocab.txt and, if there are settings, a tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in tokens).encode())
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_folder(write_vocabulary(tmp_path))


def ids(tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    return [tokens.ids for tokens in tokenizer.encode(texts)]


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.backend.id_to_token(i) for i in tokenizer.encode([text])[0].ids]


# Files


def test_word_piece_takes_the_longest_piece_first(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, "helloing, hellos") == [
        "[CLS]",
        "hello",
        "##ing",
        ",",
        "hello",
        "##s",
        "[SEP]",
    ]
    # a word whose last piece is unknown is unknown whole
    assert pieces(tokenizer, "hi\u00df") == ["[CLS]", "[UNK]", "[SEP]"]
    assert pieces(tokenizer, "a" * 100) == ["[CLS]", "a", *["##a"] * 99, "[SEP]"]
    # as in the original: 100 characters a word
    assert pieces(tokenizer, "a" * 101) == ["[CLS]", "[UNK]", "[SEP]"]


def test_special_tokens_in_a_text_are_the_tokens(tokenizer: Tokenizer) -> None:
    assert ids(tokenizer, ["[MASK]", "a [MASK]."]) == [
        [CLS, MASK, SEP],
        [CLS, 5, MASK, UNCASED.index("."), SEP],
    ]
    assert tokenizer.backend.token_to_id("[MASK]") == MASK
    assert tokenizer.backend.token_to_id("nowhere") is None


def test_tokenizer_json_goes_before_vocab_txt(tmp_path: Path) -> None:
    Tokenizer.from_folder(write_vocabulary(tmp_path / "first")).save(tmp_path / "second")
    write_vocabulary(tmp_path / "second", [*SPECIAL_TOKENS, "hello"])
    both = Tokenizer.from_folder(tmp_path / "second")
    assert ids(both) == ids(Tokenizer.from_folder(tmp_path / "first"))


def test_padding_and_truncation_of_the_file_are_switched_off(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.backend.enable_padding(length=12)
    tokenizer.backend.enable_truncation(4)
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.from_folder(tmp_path / "saved")
    assert [len(i) for i in ids(again, ["a", "a b c d e f"])] == [3, 8]


@pytest.mark.filterwarnings("ignore:.*has words with capital letters")
@pytest.mark.parametrize(
    ("tokens", "settings", "lowered"),
    [
        (UNCASED, {}, True),
        (UNCASED, {"do_lower_case": True}, True),
        (UNCASED, {"do_lower_case": False}, False),
        (UNCASED, {"do_lower_case": None}, True),
        (CASED, {}, False),  # its capitals tell
        (CASED, {"do_lower_case": False}, False),
        (CASED, {"do_lower_case": True}, True),
        (CASED, {"do_lower_case": True, "strip_accents": None}, True),
    ],
)
def test_lower_case(
    tokens: list[str], settings: dict[str, Any], lowered: bool, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_folder(write_vocabulary(tmp_path, tokens, **settings))
    h = "h" if lowered else "H" if "H" in tokens else "[UNK]"
    assert pieces(tokenizer, "H hello") == ["[CLS]", h, "hello", "[SEP]"]
    # accents go with the capitals, where nothing else is said
    e = "e" if lowered else "\u00e9" if "\u00e9" in tokens else "[UNK]"
    assert pieces(tokenizer, "\u00e9") == ["[CLS]", e, "[SEP]"]


def test_a_stray_capital_makes_no_cased_vocabulary(tmp_path: Path) -> None:
    """Somebody added a marker, or there is a Roman numeral."""
    words = [f"w{i}" for i in range(300)]
    tokenizer = Tokenizer.from_folder(write_vocabulary(tmp_path, [*UNCASED, *words, "VII"]))
    assert pieces(tokenizer, "H hello") == ["[CLS]", "h", "hello", "[SEP]"]


def test_a_vocabulary_that_is_taken_for_a_cased_one_is_told(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"vocab\.txt has words with capital letters, so texts are"
    ):
        Tokenizer.from_folder(write_vocabulary(tmp_path, CASED))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer.from_folder(write_vocabulary(tmp_path, CASED, do_lower_case=False))


def test_a_byte_order_mark_is_no_part_of_the_first_token(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, ["\ufeff[PAD]", *UNCASED[1:]])
    assert Tokenizer.from_folder(tmp_path).backend.token_to_id("[PAD]") == 0


def test_special_tokens_of_other_names(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokens = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", *UNCASED[5:]]
    settings = dict(
        zip(
            (f"{role}_token" for role in ("pad", "unk", "cls", "sep", "mask")), tokens, strict=False
        )
    )
    write_vocabulary(tmp_path, tokens, do_lower_case=True, **settings)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert pieces(tokenizer, "hello \u5000 <mask>") == ["<s>", "hello", "<unk>", "<mask>", "</s>"]
    assert tokenizer.special_id("mask") == 4
    theirs = transformers.AutoTokenizer.from_pretrained(write_bert_config(tmp_path))
    assert theirs(TEXTS)["input_ids"] == ids(tokenizer)
    tokenizer.save(tmp_path / "saved")
    assert ids(Tokenizer.from_folder(tmp_path / "saved")) == ids(tokenizer)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"is not a BERT vocabulary: \[PAD\]"):
        Tokenizer.from_folder(tmp_path)


def test_added_tokens_beside_a_vocabulary(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    size = len(UNCASED)
    write_vocabulary(tmp_path, UNCASED, do_lower_case=True)
    added = tmp_path / "added_tokens.json"
    added.write_text(json.dumps({"<user>": size + 1, "[URL]": size}))
    tokenizer = Tokenizer.from_folder(tmp_path, vocab_size=size + 2)
    theirs = transformers.AutoTokenizer.from_pretrained(write_bert_config(tmp_path))
    texts = ["hello [URL]", "hello<user>a", "[url] <USER>"]
    assert theirs(texts)["input_ids"] == ids(tokenizer, texts)
    assert ids(tokenizer, texts)[0][2] == size
    tokenizer.save(tmp_path / "saved")
    assert ids(Tokenizer.from_folder(tmp_path / "saved"), texts) == ids(tokenizer, texts)
    with pytest.raises(InputError, match="gives ids up to"):
        Tokenizer.from_folder(tmp_path, vocab_size=size + 1)
    for wrong, message in (
        ({"[URL]": size + 7}, rf"'\[URL\]' has the id {size + 7}, and after .* it is {size}"),
        ({"[URL]": "x"}, "must give each token its id"),
    ):
        added.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=rf"added_tokens\.json: {message}"):
            Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_that_splits_words_otherwise_is_refused(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, tokenizer_class="BertJapaneseTokenizer")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: .*'BertJapaneseTokenizer'"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
)
@pytest.mark.parametrize("lowered", [False, True])
def test_the_settings_win_over_tokenizer_json(
    settings: dict[str, Any], lowered: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    Tokenizer.from_folder(write_vocabulary(tmp_path, CASED, do_lower_case=lowered)).save(tmp_path)
    settings |= {"tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(write_bert_config(tmp_path))
    assert theirs(TEXTS)["input_ids"] == ids(Tokenizer.from_folder(tmp_path))


def test_accents_and_chinese_characters_have_their_own_settings(tmp_path: Path) -> None:
    kept = Tokenizer.from_folder(
        write_vocabulary(tmp_path, CASED, do_lower_case=True, strip_accents=False)
    )
    assert pieces(kept, "H\u00e9") == ["[CLS]", "h", "##\u00e9", "[SEP]"]
    write_vocabulary(tmp_path, UNCASED, tokenize_chinese_chars=False)
    assert pieces(Tokenizer.from_folder(tmp_path), "\u4f60a") == ["[CLS]", "\u4f60", "##a", "[SEP]"]
    write_vocabulary(tmp_path, UNCASED, tokenize_chinese_chars=True)
    assert pieces(Tokenizer.from_folder(tmp_path), "\u4f60a") == ["[CLS]", "\u4f60", "a", "[SEP]"]


@pytest.mark.parametrize("key", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
@pytest.mark.parametrize("value", ["yes", 1, 0, []])
def test_a_setting_that_is_no_switch_is_named(key: str, value: Any, tmp_path: Path) -> None:
    write_vocabulary(tmp_path, **{key: value})
    message = re.escape(
        f"{tmp_path / 'tokenizer_config.json'}: {key} must be true or false, not {value!r}"
    )
    with pytest.raises(InputError, match=message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n\n"])
def test_line_ends_of_a_vocabulary(end: str, tail: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((end.join(UNCASED) + tail.replace("\n", end)).encode())
    tokenizer = Tokenizer.from_folder(tmp_path, vocab_size=len(UNCASED))
    assert tokenizer.backend.get_vocab() == {token: i for i, token in enumerate(UNCASED)}


@pytest.mark.parametrize(
    "inside", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"]
)
def test_only_a_line_feed_ends_a_token_of_a_vocabulary(inside: str, tmp_path: Path) -> None:
    tokens = [*SPECIAL_TOKENS, f"x{inside}y", inside, "a"]
    tokenizer = Tokenizer.from_folder(write_vocabulary(tmp_path, tokens), vocab_size=len(tokens))
    assert tokenizer.backend.token_to_id("a") == 7
    assert tokenizer.backend.token_to_id(f"x{inside}y") == 5


def test_a_blank_line_inside_a_vocabulary_counts_as_in_transformers(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, [*SPECIAL_TOKENS, "", "a"])
    assert Tokenizer.from_folder(tmp_path).backend.token_to_id("a") == 6


@pytest.mark.parametrize("missing", SPECIAL_TOKENS)
def test_a_vocabulary_without_a_special_token_is_refused(missing: str, tmp_path: Path) -> None:
    write_vocabulary(tmp_path, [token for token in UNCASED if token != missing])
    with pytest.raises(
        InputError, match=rf"vocab\.txt is not a BERT vocabulary: {re.escape(missing)} missing"
    ):
        Tokenizer.from_folder(tmp_path)


def test_an_empty_or_binary_vocabulary_is_refused(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, [])
    with pytest.raises(InputError, match=r"vocab\.txt is not a BERT vocabulary"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe")
    with pytest.raises(InputError, match=r"vocab\.txt, line 2: not UTF-8"):
        Tokenizer.from_folder(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "nonsense", '{"model": {"type": "WordPiece"}}', "3"]
)
def test_a_damaged_tokenizer_json_is_named(content: str, tmp_path: Path) -> None:
    write_vocabulary(tmp_path)  # which is not taken in its place
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(
        InputError,
        match=r"tokenizer\.json(, line 1: not JSON|: must hold a JSON object|"
        r": model must be a JSON object|: the tokenizers library refuses it)",
    ):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_json_cut_anywhere_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text(encoding="utf-8").rstrip()
    for length in range(1, len(whole), 97):
        (tmp_path / "tokenizer.json").write_text(whole[:length], encoding="utf-8")
        with pytest.raises(InputError, match=r"tokenizer\.json, line \d+: not JSON"):
            Tokenizer.from_folder(tmp_path)


def edited(tokenizer: Tokenizer, folder: Path, **changes: Any) -> None:
    tokenizer.save(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(content | changes), encoding="utf-8")


def test_a_tokenizer_json_that_is_not_berts_is_refused(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    edited(tokenizer, tmp_path, post_processor=None)
    with pytest.raises(
        InputError, match=r"tokenizer\.json is no BERT tokenizer: it puts no \[CLS\] and \[SEP\]"
    ):
        Tokenizer.from_folder(tmp_path)
    model = {
        "type": "WordPiece",
        "unk_token": "?",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 9,
    }
    edited(tokenizer, tmp_path, model=model | {"vocab": {"a": 0}})
    with pytest.raises(
        InputError, match=r"tokenizer\.json is no sound tokenizer: .* unk_token '\?'"
    ):
        Tokenizer.from_folder(tmp_path)


def test_ids_beyond_the_models_vocabulary_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    highest = len(UNCASED) - 1
    tokenizer.save(tmp_path / "json")
    for folder, name in ((tmp_path, "vocab.txt"), (tmp_path / "json", "tokenizer.json")):
        whole = Tokenizer.from_folder(folder, vocab_size=len(UNCASED))
        assert whole.backend.token_to_id(UNCASED[-1]) == highest
        message = (
            rf"{folder / name} does not belong to this model: .* up to {highest}, .* is {highest}$"
        )
        with pytest.raises(InputError, match=message):
            Tokenizer.from_folder(folder, vocab_size=highest)


def test_ids_beyond_it_in_added_tokens_or_around_a_text_are_refused_too(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [5000]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="ids up to 5000"):
        Tokenizer.from_folder(tmp_path, vocab_size=len(UNCASED))
    tokenizer.backend.add_tokens(["minibert"])
    tokenizer.save(tmp_path)
    with pytest.raises(InputError, match=f"ids up to {len(UNCASED)}"):
        Tokenizer.from_folder(tmp_path, vocab_size=len(UNCASED))


@pytest.mark.parametrize("content", ["[]", "3", "nonsense", ""])
def test_a_damaged_tokenizer_config_is_named(content: str, tmp_path: Path) -> None:
    (write_vocabulary(tmp_path) / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer_config\.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("said", "limit"),
    [(12, 12), (None, None), (512.0, 512), (10**30, None), (1e30, None), (float("inf"), None)],
)
def test_the_limit_that_the_files_say(said: Any, limit: int | None, tmp_path: Path) -> None:
    assert (
        Tokenizer.from_folder(write_vocabulary(tmp_path, model_max_length=said)).max_length == limit
    )


@pytest.mark.parametrize("said", [0, -1, "512", True, [], float("nan")])
def test_an_absurd_limit_is_named(said: Any, tmp_path: Path) -> None:
    message = re.escape(
        f"{tmp_path / 'tokenizer_config.json'}: model_max_length must be a positive number, not "
    )
    with pytest.raises(InputError, match=message):
        Tokenizer.from_folder(write_vocabulary(tmp_path, model_max_length=said))


# Truncation


def test_a_text_at_the_limit_is_whole(tokenizer: Tokenizer) -> None:
    tokenizer.max_length = 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tokens,) = tokenizer.encode(["a b c"])
        (words,) = tokenizer.encode_words([["a", "b", "c"]])
    assert tokens.ids == words.ids == [CLS, 5, 6, 7, SEP]
    assert tokens.lost == words.lost == 0


def test_a_longer_text_loses_its_end_and_says_so(tokenizer: Tokenizer) -> None:
    tokenizer.max_length = 5
    texts = ["a b c d", "a", "a b c d e f", "a b c"]
    with pytest.warns(TruncationWarning) as caught:
        tokens = tokenizer.encode(texts)
    (warning,) = caught
    assert str(warning.message) == (
        "2 of 4 texts are longer than 5 tokens: the longest is number 2 (counted from 0) with 8; "
        "4 tokens were cut off"
    )
    assert [t.lost for t in tokens] == [1, 0, 3, 0]
    assert tokens[0].ids == tokens[2].ids == tokens[3].ids == [CLS, 5, 6, 7, SEP]
    assert tokens[2].words == [None, 0, 1, 2, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer.encode(texts, truncation="silent") == tokens
    with pytest.raises(InputError, match=r"number 2 \(counted from 0\) with 8$"):
        tokenizer.encode(texts, truncation="error")
    tokenizer.max_length = None
    # cutting left nothing behind
    assert [len(t.ids) for t in tokenizer.encode(texts)] == [6, 3, 8, 5]


def test_the_longer_text_of_a_pair_loses_its_end(tokenizer: Tokenizer) -> None:
    tokenizer.max_length = 7
    pairs = [("a b c d", "e"), ("a", "b c d e f"), ("a b", "c d")]
    tokens = tokenizer.encode_pairs(pairs, truncation="silent")
    assert [t.ids for t in tokens] == [
        [CLS, 5, 6, 7, SEP, 9, SEP],
        [CLS, 5, SEP, 6, 7, 8, SEP],
        [CLS, 5, 6, SEP, 7, 8, SEP],
    ]
    assert [t.type_ids for t in tokens] == [
        [0, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1, 1],
    ]
    assert [t.lost for t in tokens] == [1, 2, 0]
    with pytest.warns(
        TruncationWarning, match="2 of 3 texts .* number 1 .* with 9; 3 tokens were cut off"
    ):
        tokenizer.encode_pairs(pairs)
    with pytest.raises(InputError, match="2 of 3 texts"):
        tokenizer.encode_pairs(pairs, truncation="error")


def test_a_pair_is_cut_as_the_library_cuts_it(tokenizer: Tokenizer) -> None:
    """Every two lengths up to 9 words, at every limit that leaves room."""
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
    pairs = [(" ".join(words[:m]), " ".join(words[:n])) for m in range(10) for n in range(10)]
    theirs = copy.deepcopy(tokenizer.backend)
    for limit in range(4, 22):
        tokenizer.max_length = limit
        theirs.enable_truncation(limit, strategy="longest_first")
        found = tokenizer.encode_pairs(pairs, truncation="silent")
        expected = theirs.encode_batch(pairs)
        assert [t.ids for t in found] == [e.ids for e in expected]
        assert [t.type_ids for t in found] == [e.type_ids for e in expected]


def test_threads_that_share_a_tokenizer_do_not_see_each_others_limits(tokenizer: Tokenizer) -> None:
    """Once, cutting switched a setting of the shared library object on and off."""
    tokenizer.max_length = 50
    texts = ["a b c " * 400, "a b " * 30, "a b c d " * 100]
    expected = tokenizer.encode(texts, "silent")
    assert [len(tokens.ids) for tokens in expected] == [50, 50, 50]

    def work(number: int) -> bool:
        for _ in range(40):
            if number % 2:
                with pytest.raises(InputError, match="3 of 3 texts"):
                    tokenizer.encode(texts, "error")
            elif tokenizer.encode(texts, "silent") != expected:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_split_words_lose_their_end(tokenizer: Tokenizer) -> None:
    tokenizer.max_length = 6
    sentences = [["hello", "helloing", "ab", "c"], ["a"]]  # 1 + 2 + 2 + 1 pieces
    with pytest.warns(
        TruncationWarning, match="1 of 2 texts .* number 0 .* with 8; 2 tokens were cut off"
    ):
        tokens = tokenizer.encode_words(sentences)
    # the third word keeps its first piece, the fourth has none
    assert tokens[0].words == [None, 0, 1, 1, 2, None]
    assert [t.lost for t in tokens] == [2, 0]
    with pytest.raises(InputError, match="1 of 2 texts"):
        tokenizer.encode_words(sentences, truncation="error")


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_limit_without_room_for_text_is_an_error(limit: int, tokenizer: Tokenizer) -> None:
    tokenizer.max_length = limit
    with pytest.raises(InputError, match=f"a limit of {limit} tokens leaves no room"):
        tokenizer.encode(["a"], truncation="silent")


def test_an_unknown_word_for_truncation_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="truncation 'loud' is not one of warn, error, silent"):
        tokenizer.encode(["a"], truncation="loud")  # type: ignore[arg-type]


# Words


def test_words_and_their_pieces(tokenizer: Tokenizer) -> None:
    (tokens,) = tokenizer.encode_words([["Hello", "helloing", "a.b", "zz"]])
    found = [
        (tokenizer.backend.id_to_token(i), word)
        for i, word in zip(tokens.ids, tokens.words, strict=True)
    ]
    assert found == [
        ("[CLS]", None),
        ("hello", 0),
        ("hello", 1),
        ("##ing", 1),
        ("a", 2),
        (".", 2),
        ("b", 2),
        ("z", 3),
        ("##z", 3),
        ("[SEP]", None),
    ]


@pytest.mark.parametrize("nothing", ["\ufffd", "", " ", "\x00", "\u200d", "\u0301"])
def test_a_word_without_a_piece_shifts_nothing(nothing: str, tokenizer: Tokenizer) -> None:
    sentences = [["a", nothing, "b"], [nothing, "a"], ["a", nothing], [nothing], []]
    tokens = tokenizer.encode_words(sentences)
    assert [t.words for t in tokens] == [
        [None, 0, 2, None],
        [None, 1, None],
        [None, 0, None],
        [None, None],
        [None, None],
    ]
    assert tokens[0].ids == [CLS, 5, 6, SEP]


def test_split_words_have_the_ids_of_the_text(tokenizer: Tokenizer) -> None:
    text = "hello world, helloing \u4f60 zz."
    assert tokenizer.encode_words([text.split()])[0].ids == tokenizer.encode([text])[0].ids


# What is no text


@pytest.mark.parametrize("wrong", [None, 3, 1.5, b"bytes", ["nested"], ("a", "b"), {"a": 1}])
def test_what_is_no_text_is_named_by_its_number(wrong: Any, tokenizer: Tokenizer) -> None:
    kind = type(wrong).__name__
    with pytest.raises(
        InputError, match=rf"text number 2 \(counted from 0\) is of type {kind}, not str"
    ):
        tokenizer.encode(["a", "b", wrong])
    with pytest.raises(
        InputError, match=rf"pair number 1, text number 0 \(counted from 0\) is of type {kind}"
    ):
        tokenizer.encode_pairs([("a", "b"), (wrong, "b")])
    with pytest.raises(
        InputError, match=rf"sentence number 1, text number 2 \(counted from 0\) is of type {kind}"
    ):
        tokenizer.encode_words([["a"], ["a", "b", wrong]])


@pytest.mark.parametrize("half", ["\ud800", "a\udfff", "\ud83d\ude00"], ids=["high", "low", "both"])
def test_half_a_surrogate_pair_is_named_by_its_number(half: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(
        InputError, match=r"text number 1 \(counted from 0\) holds half a surrogate pair"
    ):
        tokenizer.encode(["\U0001f600", half])
    with pytest.raises(InputError, match="sentence number 1, text number 0 "):
        tokenizer.encode_words([["a"], [half]])
    with pytest.raises(InputError, match="text number 1 "):
        tokenizer.encode_windows(["a", half], 1, "text")
    with pytest.raises(InputError, match="sentence number 1, text number 0 "):
        tokenizer.encode_windows([["a"], [half]], 1, "words")
    with pytest.raises(InputError, match="pair number 0, text number 1 "):
        tokenizer.encode_windows([("a", half)], 1, "pair")


@pytest.mark.parametrize("wrong", ["ab", ("a",), ("a", "b", "c"), None, 3, {"a", "b"}])
def test_what_is_no_pair_is_named_by_its_number(wrong: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"pair number 1 \(counted from 0\) must be two texts"):
        tokenizer.encode_pairs([("a", "b"), wrong])


@pytest.mark.parametrize("wrong", ["a b", None, 3, b"bytes", iter(["a"])])
def test_what_is_no_list_of_words_is_named_by_its_number(wrong: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(
        InputError, match=r"sentence number 1 \(counted from 0\) must be a list of words"
    ):
        tokenizer.encode_words([["a"], wrong])


def test_one_text_is_not_taken_for_a_list_of_letters(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="a list of texts is read here, not one text: 'hello'"):
        tokenizer.encode("hello")


def test_nothing_gives_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([]) == tokenizer.encode_pairs([]) == tokenizer.encode_words([]) == []
    assert tokenizer.encode([""])[0].ids == [CLS, SEP]


# Saving

KINDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "uncased": (UNCASED, {"do_lower_case": True}),
    "cased": (CASED, {"do_lower_case": False}),
    "lower case with accents": (CASED, {"do_lower_case": True, "strip_accents": False}),
    "cased without accents": (CASED, {"do_lower_case": False, "strip_accents": True}),
    "chinese in words": (UNCASED, {"do_lower_case": True, "tokenize_chinese_chars": False}),
}


@pytest.mark.parametrize("lower_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_gives_the_same_ids(kind: str, lower_first: bool, tmp_path: Path) -> None:
    tokens, settings = KINDS[kind]
    tokenizer = Tokenizer.from_folder(
        write_vocabulary(tmp_path, tokens, **settings, model_max_length=50)
    )
    before = ids(tokenizer, ["HELLO", "hello"])
    if lower_first:
        tokenizer.lower_first()
        assert ids(tokenizer, ["HELLO"]) == before[1:]
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.from_folder(tmp_path / "saved", vocab_size=len(tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        assert again.encode(TEXTS) == tokenizer.encode(TEXTS)
    assert again.encode_pairs([("a", "b c")]) == tokenizer.encode_pairs([("a", "b c")])
    assert again.max_length == 50
    assert (tmp_path / "saved" / "vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()


@pytest.mark.parametrize("lower_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_what_is_saved_and_gives_the_same_ids(
    kind: str, lower_first: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokens, settings = KINDS[kind]
    tokenizer = Tokenizer.from_folder(write_vocabulary(tmp_path, tokens, **settings))
    original = transformers.AutoTokenizer.from_pretrained(write_bert_config(tmp_path))
    assert original(TEXTS)["input_ids"] == ids(tokenizer)
    if lower_first:
        tokenizer.lower_first()
    tokenizer.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(write_bert_config(tmp_path / "saved"))
    assert theirs(TEXTS)["input_ids"] == ids(tokenizer)
    pair, ours = theirs("hello", "World"), tokenizer.encode_pairs([("hello", "World")])[0]
    assert (pair["input_ids"], pair["token_type_ids"]) == (ours.ids, ours.type_ids)
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.mask_token_id] == [0, UNK, MASK]


def write_bert_config(folder: Path) -> Path:
    # transformers asks it for the kind of tokenizer
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def test_a_token_that_stands_twice_shifts_no_line_of_the_saved_vocabulary(tmp_path: Path) -> None:
    # the last one counts, as in transformers
    write_vocabulary(tmp_path, [*SPECIAL_TOKENS, "a", "b", "a", "c"])
    tokenizer = Tokenizer.from_folder(tmp_path)
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").unlink()
    assert (
        ids(Tokenizer.from_folder(tmp_path / "saved"), ["a b c"])
        == ids(tokenizer, ["a b c"])
        == [[2, 7, 6, 8, 3]]
    )


def test_a_full_disk_leaves_the_old_tokenizer_whole(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "saved"
    tokenizer.save(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_text = Path.write_text

    def fill_up(self: Path, data: str, *arguments: Any, **options: Any) -> int:
        write_text(self, data[: len(data) // 2], *arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(
        InputError, match=r"cannot write .*tokenizer\.json: No space left on device"
    ):
        tokenizer.save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*vocab\.txt.tokenizer\.json"):
        tokenizer.save(tmp_path / "vocab.txt")
    assert os.listdir(tmp_path) == ["vocab.txt"]


# The real one


def test_minilms_two_files_give_the_same_ids(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    built, read = Tokenizer.from_folder(tmp_path), Tokenizer.from_folder(minilm, vocab_size=30522)
    assert ids(built) == ids(read)
    assert read.max_length == 512
    assert read.encode(["Hello world"])[0].ids == [101, 7592, 2088, 102]
