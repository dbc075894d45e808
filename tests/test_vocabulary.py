"""vocabulary.py: the joins are those of byte-pair encoding, written plainly here, and those of the
tokenizers library; what is written opens everywhere with equal ids."""

import io
import itertools
import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from minibert.formats.tokenizer import SPECIAL_TOKENS
from minibert.tokenizer import Tokenizer
from train.vocabulary import alphabet_of, main, split_words, train_vocabulary

HARD = (
    "Der Übergröße, naïve façade!",
    "a [MASK] here and [SEP] there",
    "東京 is 5,000 km away…",
    "x\x1cy\x85z tab\tno\xa0break\u2028line",
    "unheard-of Ω 🙂 \u0301combining",
    "",
)


def corpus(seed: int = 0) -> Counter[str]:
    """Words of a few syllables, many of them equally frequent."""
    dice = random.Random(seed)
    syllables = ["ba", "be", "n", "do", "dor", "el", "ing", "s", "é", "t"]
    return Counter(
        "".join(dice.choices(syllables, k=dice.randint(1, 4))) for _ in range(dice.randint(50, 400))
    )


def plain_joins(words: Counter[str], first: list[str], size: int, min_frequency: int) -> list[str]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1). Of equally frequent pairs, the one of
    the lowest ids is joined."""
    tokens = list(first)
    rows = {word: [word[0], *(f"##{c}" for c in word[1:])] for word in words}
    while len(tokens) < size:
        ids = {token: i for i, token in enumerate(tokens)}
        counts: Counter[tuple[str, str]] = Counter()
        for word, row in rows.items():
            for pair in itertools.pairwise(row):
                counts[pair] += words[word]
        if not counts:
            break
        a, b = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        if counts[a, b] < min_frequency:
            break
        joined = a + b.removeprefix("##")
        if joined not in tokens:
            tokens.append(joined)
        for row in rows.values():
            i = 0
            while i < len(row) - 1:
                if (row[i], row[i + 1]) == (a, b):
                    row[i : i + 2] = [joined]
                i += 1
    return tokens


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("more", "min_frequency"), [(0, 2), (20, 1), (60, 2), (1000, 5)])
def test_joins_are_those_of_byte_pair_encoding(seed: int, more: int, min_frequency: int) -> None:
    words = corpus(seed)
    first = [*SPECIAL_TOKENS, *alphabet_of(words, 1000)]
    size = len(first) + more
    found = train_vocabulary(words, size, min_frequency)
    assert found == plain_joins(words, first, size, min_frequency)
    assert found == train_vocabulary(words, size, min_frequency)


def test_the_library_makes_the_same_joins_of_text() -> None:
    """From text, with its own alphabet. Counts are drawn so high that hardly any are equal, and
    then its choices do not depend on its hash tables."""
    dice = random.Random(1)
    words = Counter({word: dice.randint(100, 4000) for word in sorted(corpus(2))[:60]})
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=70, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    backend.train_from_iterator([" ".join([w] * n) for w, n in words.items()], trainer)
    normalized: Counter[str] = Counter()
    for word, count in words.items():
        (own,) = split_words(BertNormalizer(), word)
        normalized[own] += count
    found = train_vocabulary(normalized, 70)
    assert len(found) == 70
    assert set(found) == set(backend.get_vocab())


@given(st.text(st.characters(codec="utf-8")), st.booleans())
def test_words_are_the_same_of_a_text_and_of_its_parts(text: str, lowercase: bool) -> None:
    """Between spaces."""
    normalizer = BertNormalizer(lowercase=lowercase)
    parts = [word for part in text.split(" ") for word in split_words(normalizer, part)]
    assert parts == split_words(normalizer, text)


def test_the_alphabet_keeps_the_most_frequent_characters() -> None:
    words = {"ab": 5, "cb": 1, "ca": 1, "d": 9, ",": 9}
    assert alphabet_of(words, 10) == [",", "a", "b", "c", "d", "##a", "##b"]
    assert alphabet_of(words, 3) == [",", "a", "d", "##a"]


def written(folder: Path, *options: str) -> Path:
    text = folder / "corpus.txt"
    sentences = (" ".join(corpus(seed).elements()) + ". Élan, 東京!" for seed in range(9))
    text.write_text("\ufeff" + "\r\n".join(sentences), encoding="utf-8")
    assert main([str(text), "--size", "120", "-o", str(folder / "made"), *options]) == 0
    return folder / "made"


@pytest.mark.parametrize("options", [(), ("--cased",)])
def test_what_is_written_opens_everywhere_with_equal_ids(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, *options)
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(tokens) == len(set(tokens)) == 120
    assert tuple(tokens[:5]) == SPECIAL_TOKENS
    assert ("É" in tokens) is bool(options)
    assert ("##ing" in tokens, "\ufeff" in tokens) == (True, False)
    texts = [*HARD, " ".join(corpus(3).elements())]
    wanted = [tokens.ids for tokens in Tokenizer.from_folder(folder).encode(texts)]
    assert {i for ids in wanted for i in ids} > {1, 2, 3, 4}
    for theirs in (
        transformers.BertTokenizer.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    ):
        assert theirs(texts)["input_ids"] == wanted
        assert (theirs.pad_token_id, theirs.mask_token_id, len(theirs)) == (0, 4, 120)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [found.ids for found in library.encode_batch(texts)] == wanted
    (folder / "tokenizer.json").unlink()
    assert [tokens.ids for tokens in Tokenizer.from_folder(folder).encode(texts)] == wanted
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] is not bool(options)


def test_it_says_what_it_read_and_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are counted here from the encoded lines."""
    folder = written(tmp_path)
    out = capsys.readouterr().out
    text = (tmp_path / "corpus.txt").read_text(encoding="utf-8").removeprefix("\ufeff")
    found = Tokenizer.from_folder(folder).encode(text.splitlines())
    words = sum(max(w for w in one.words if w is not None) + 1 for one in found)
    pieces = sum(len(one.ids) - 2 for one in found)
    assert f"read: {sum(map(len, text.splitlines())):,} characters, " in out
    assert f"{words:,} words" in out
    assert f"120 tokens; {pieces / words:.3f} tokens a word, 0.0000% of the words are [UNK]" in out
    assert "in tokens: " in out


def test_a_vocabulary_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path)
    before = (folder / "vocab.txt").read_bytes()
    assert main([str(tmp_path / "corpus.txt"), "--size", "60", "-o", str(folder)]) == 2
    assert "holds a vocabulary already (vocab.txt, tok" in capsys.readouterr().err
    assert (folder / "vocab.txt").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"good\nb\xffd\n", (), "corpus.txt, line 2: not UTF-8 text"),
        (b" \n\n", (), "there is no word in"),
        (b"abc abd\n", ("--size", "9"), "--size 9: the special tokens and the characters"),
        (b"abc abd\n", ("--size", "0"), "--size 0: must be from 1 to 2147483648"),
        (b"abc abd\n", ("--min-frequency", "9" * 30), "must be from 1 to 2147483648"),
        (None, (), "cannot read"),
    ],
)
def test_what_cannot_be_used_is_named(
    content: bytes | None,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing is written."""
    text = tmp_path / "corpus.txt"
    if content is not None:
        text.write_bytes(content)
    assert main([str(text), "-o", str(tmp_path / "made"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_size_that_no_memory_holds() -> None:
    """The library reserves memory for the whole size, and ends the program where there is none."""
    words = {"hello": 3, "hell": 2, "help": 2}
    assert train_vocabulary(words, 10**18) == train_vocabulary(words, 1000)


def test_a_folder_is_its_train_split_and_a_small_corpus_gives_fewer_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.txt").write_text("abc abc abd\n")
    (tmp_path / "dev.txt").write_text("xyz\n")
    assert main([str(tmp_path), "--size", "500", "-o", str(tmp_path / "made")]) == 0
    tokens = (tmp_path / "made/vocab.txt").read_text().split()
    assert tokens == [*SPECIAL_TOKENS, *"abcd", "##b", "##c", "##d", "ab", "abc"]
    assert "--size 500: no more pairs occur 2 times" in capsys.readouterr().out


def test_standard_input_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same vocabulary as from a file."""
    text = b"abc abc abd\nabd abe\n"
    (tmp_path / "corpus.txt").write_bytes(text)
    assert main([str(tmp_path / "corpus.txt"), "-o", str(tmp_path / "file")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["-", "--json", "-o", str(tmp_path / "piped")]) == 0
    told = json.loads(capsys.readouterr().out)
    tokens = (tmp_path / "piped/vocab.txt").read_text()
    assert tokens == (tmp_path / "file/vocab.txt").read_text()
    assert told["output"] == str(tmp_path / "piped")
    assert told["tokens"] == len(tokens.split())
    assert (told["words"], told["different_words"], told["unknown_words"]) == (5, 3, 0)
