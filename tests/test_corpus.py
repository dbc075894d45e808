"""Plain text: which documents there are, and the sequences and segments that they become.

Evidence: texts whose words are known, so that what the sequences hold can be counted; and the
peak memory of a process that reads a small and a large text.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from scipy.stats import binom
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import BertProcessing, TemplateProcessing

from minibert import InputError
from minibert.tokenizer import Tokenizer
from train.data.corpus import Corpus, unigram_entropy
from train.data.documents import LONGEST, read_lines, text_files
from train.settings import Settings
from train.tasks.base import Task
from train.tasks.masked_words import MaskedWords
from train.tasks.masks import Masks
from train.tasks.next_sentence import NextSentence
from train.text import load_texts, read_corpus

ROOT = Path(__file__).parents[1]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# every word of letters is one or more pieces, and any text can be counted back
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    made = Tokenizer.from_folder(folder)
    made.max_length = 16
    return made


def corpus_of(
    files: list[Path], tokenizer: Tokenizer, has_next: bool = False, **changes: Any
) -> Corpus:
    settings = replace(Settings(), **changes)
    tasks: list[Task] = [MaskedWords("masked", Masks.of(settings, tokenizer))]
    if has_next:
        tasks.append(NextSentence("next"))
    return read_corpus(files, settings, tasks, tokenizer)


def words(count: int, seed: int = 0) -> list[str]:
    dice = np.random.default_rng(seed)
    return ["".join(dice.choice(list(LETTERS), size=dice.integers(1, 5))) for _ in range(count)]


def inside(corpus: Corpus) -> list[int]:
    """All ids of all sequences in order, without the [CLS] and [SEP] around each."""
    return [i for item in corpus for i in item.parts[0].ids[1:-1]]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


# Documents


def lines_of(content: bytes, folder: Path, documents: str = "blocks", encoding: str = "utf-8"):
    (folder / "text.txt").write_bytes(content)
    return [tuple(line) for line in read_lines(folder / "text.txt", documents, encoding)]


@pytest.mark.parametrize(
    "content",
    [
        b"a b\nc\n\nd",
        b"a b\r\nc\r\n\r\nd\r\n",
        b"\xef\xbb\xbfa b\nc\n\nd\n",
        b"  a b \n\tc\n \t \nd\n",
        "a b\nc\n\nd\n".encode("utf-16"),
    ],
    ids=["plain", "CRLF", "BOM", "blank with spaces", "utf-16"],
)
def test_lines_and_blocks(content: bytes, tmp_path: Path) -> None:
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    for documents, firsts in (
        ("blocks", (True, False, True)),
        ("lines", (True, True, True)),
        ("files", (True, False, False)),
    ):
        found = lines_of(content, tmp_path, documents, encoding)
        assert found == [
            (text, number, first)
            for text, number, first in zip(("a b", "c", "d"), (1, 2, 4), firsts, strict=True)
        ]


def test_other_encodings(tmp_path: Path) -> None:
    assert lines_of(b"caf\xe9", tmp_path, encoding="cp1252") == [("café", 1, True)]
    with pytest.raises(InputError, match=r"text.txt: not utf-8 text, after line .* --encoding"):
        lines_of(b"a\ncaf\xe9\n", tmp_path)
    with pytest.raises(InputError, match="there is no such encoding"):
        lines_of(b"a", tmp_path, encoding="utf-9")


@pytest.mark.parametrize("documents", ["blocks", "lines", "files"])
def test_a_long_line_comes_in_pieces(documents: str, tmp_path: Path) -> None:
    """Pieces end between words; they are one document, whose next line is another of "lines"."""
    long = " ".join(words(100) * (LONGEST // 150))
    found = lines_of(f"{long}\nb\n".encode(), tmp_path, documents)
    assert len(found) > 2
    assert max(len(text) for text, _, _ in found) <= 2 * LONGEST
    assert " ".join(text for text, _, _ in found[:-1]) == long
    assert [first for _, _, first in found[:-1]] == [True] + [False] * (len(found) - 2)
    assert found[-1] == ("b", 2, documents == "lines")


def test_a_long_line_without_spaces_is_cut(tmp_path: Path) -> None:
    """As Chinese is written: all of it would else be held at once."""
    long = "字" * (2 * LONGEST + 5)
    found = lines_of(f"{long}\nb".encode(), tmp_path)
    assert [(len(text), number, first) for text, number, first in found] == [
        (LONGEST, 1, True),
        (LONGEST, 1, False),
        (5, 1, False),
        (1, 2, False),
    ]


def test_which_files_a_folder_has(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "valid.txt", "notes.md"):
        (tmp_path / name).write_text("a")
    found = text_files(tmp_path)
    assert {split: [file.name for file in files] for split, files in found.items()} == {
        "train": ["a.txt", "b.txt"],
        "dev": ["valid.txt"],
    }
    (tmp_path / "train.txt").write_text("a")
    assert [file.name for file in text_files(tmp_path)["train"]] == ["train.txt"]
    assert text_files(tmp_path / "a.txt") == {"train": [tmp_path / "a.txt"]}
    for missing in (tmp_path / "none", tmp_path / "none.txt"):
        with pytest.raises(InputError, match="there is no such file or folder"):
            text_files(missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no \.txt file"):
        text_files(tmp_path / "empty")


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"\x00\x00\n\xe2\x80\x8b"])
def test_a_text_without_words(content: bytes, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """An empty file, blank lines, and characters that BERT's normaliser removes."""
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(InputError, match="there is no text in it"):
        corpus_of([tmp_path / "text.txt"], tokenizer)


# Sequences


def test_every_token_occurs_once_and_in_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Two files, the first of several documents. Sequences are filled to the limit, and [SEP]
    stands between documents."""
    documents = [" ".join(words(count, seed=count)) for count in (40, 3, 1, 25)]
    (tmp_path / "a.txt").write_text("\n\n".join(documents[:3]))
    (tmp_path / "b.txt").write_text(documents[3])
    corpus = corpus_of([tmp_path / "a.txt", tmp_path / "b.txt"], tokenizer)
    expected = [SEP]
    for text in documents:
        expected += [*ids_of(tokenizer, text), SEP]
    assert inside(corpus) == expected[1:-1]
    assert [len(item.parts[0].ids) for item in corpus][:-1] == [16] * (len(corpus) - 1)
    assert all((i.parts[0].ids[0], i.parts[0].ids[-1]) == (CLS, SEP) for i in corpus)
    assert [item.number for item in corpus] == list(range(len(corpus)))
    assert corpus[0].example.where == f"{tmp_path / 'a.txt'}, line 1"
    assert corpus[len(corpus) - 1].example.where == f"{tmp_path / 'b.txt'}, line 1"
    assert corpus.token_ids() == {CLS, *expected}


def test_words_are_known_by_their_pieces(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """So whole words can be masked, and [SEP] within a sequence never is."""
    (tmp_path / "text.txt").write_text("ab c\n\nd efg")
    corpus = corpus_of([tmp_path / "text.txt"], tokenizer, whole_words=True)
    [tokens] = corpus[0].parts
    assert tokens.words == [None, 0, 0, 1, None, 2, 3, 3, 3, None]
    assert tokens.ids[4] == SEP
    masked = {p for n in range(300) for p in corpus.tasks[0].masks.draw(tokens, 1, n)[0]}
    assert masked == {1, 2, 3, 5, 6, 7, 8} - {6, 7, 8}  # "efg" has more pieces than are wanted


def test_a_line_is_a_sequence_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(f"a b\nc\n\n{' '.join('d' * 20)}\n")
    corpus = corpus_of([tmp_path / "text.txt"], tokenizer, documents="lines")
    assert [len(item.parts[0].ids) - 2 for item in corpus] == [2, 1, 14, 6]
    assert [item.example.text for item in corpus][:2] == ["a b", "c"]


def test_a_document_of_invisible_characters_is_none(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Else next sentences would look for words in it for ever."""
    (tmp_path / "text.txt").write_text("\u200b\n\na b c\n\n\x00\x00\n\n")
    corpus = corpus_of([tmp_path / "text.txt"], tokenizer)
    assert inside(corpus) == ids_of(tokenizer, "a b c")
    assert corpus.text.lines.tolist() == [3]
    with pytest.raises(InputError, match="next sentences need two documents"):
        corpus_of([tmp_path / "text.txt"], tokenizer, has_next=True)


def test_a_file_of_one_word(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a")
    corpus = corpus_of([tmp_path / "text.txt"], tokenizer)
    assert [item.parts[0].ids for item in corpus] == [ids_of_around("a", tokenizer)]
    settings = replace(Settings(), data=(), text=(str(tmp_path / "text.txt"),))
    with pytest.raises(InputError, match="one sequence in it, and none to measure with"):
        load_texts(settings, corpus.tasks, tokenizer, 0, lambda _: None)


def ids_of_around(text: str, tokenizer: Tokenizer) -> list[int]:
    return [CLS, *ids_of(tokenizer, text), SEP]


def test_the_entropy_is_that_of_the_frequencies(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a a\n\nb b")
    corpus = corpus_of([tmp_path / "text.txt"], tokenizer)
    assert unigram_entropy([corpus]) == pytest.approx(np.log(2))


def test_names_of_special_tokens_are_the_vocabulary_s_own(tmp_path: Path) -> None:
    """A tokenizer.json may have them by other names."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    file = tmp_path / "tokenizer.json"
    Tokenizer.from_folder(tmp_path).backend.save(str(file))
    file.write_text(file.read_text().replace("[CLS]", "<s>").replace("[SEP]", "</s>"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    tokenizer.max_length = 16
    (tmp_path / "text.txt").write_text("a\n\nb")
    corpus = corpus_of([tmp_path / "text.txt"], tokenizer)
    assert corpus[0].parts[0].ids == [CLS, VOCABULARY.index("a"), SEP, VOCABULARY.index("b"), SEP]


def byte_level(folder: Path, around: Any) -> Tokenizer:
    """GPT-2's way of reading, in which no token has ##."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(ByteLevel.alphabet())]
    backend = tokenizers.Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = ByteLevel()
    backend.post_processor = around
    backend.save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_text("two words\n\nand two")
    return Tokenizer(backend, 16)


def test_whole_words_need_a_vocabulary_that_marks_them(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, BertProcessing(("[SEP]", 3), ("[CLS]", 2)))
    assert len(corpus_of([tmp_path / "text.txt"], tokenizer)) == 2
    with pytest.raises(InputError, match="whole_words = true needs WordPiece"):
        corpus_of([tmp_path / "text.txt"], tokenizer, whole_words=True)


def test_a_tokenizer_that_puts_other_tokens_around_a_text(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)]))
    with pytest.raises(InputError, match=r"this one puts \[CLS\]"):
        corpus_of([tmp_path / "text.txt"], tokenizer)


# Segments


@pytest.fixture(scope="module")
def segments(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three documents, each of letters of its own; the first has nine tenths of the text."""
    file = tmp_path_factory.mktemp("segments") / "text.txt"
    dice = np.random.default_rng(0)
    texts = []
    for letters, count in (("abc", 9000), ("def", 500), ("ghi", 500)):
        made = ["".join(dice.choice(list(letters), size=dice.integers(1, 4))) for _ in range(count)]
        texts.append(" ".join(made))
    file.write_text("\n\n".join(texts))
    return corpus_of([file], tokenizer, has_next=True)


def parts_of(item: Any) -> tuple[list[int], list[int]]:
    ids, types = item.parts[0].ids, item.parts[0].type_ids
    middle = types.index(1)
    assert types == [0] * middle + [1] * (len(ids) - middle)
    assert (ids[0], ids[middle - 1], ids[-1]) == (CLS, SEP, SEP)
    return ids[1 : middle - 1], ids[middle:-1]


def test_half_of_the_segments_follow(segments: Corpus) -> None:
    follows = sum(item.example.labels["next"] == "next" for item in segments)
    low, high = binom.interval(0.999, len(segments), 0.5)
    assert low <= follows <= high


def test_segments(segments: Corpus) -> None:
    """Both have tokens; the second begins with a word; one that follows completes the document's
    own stretch of text; a random one is of another document, and no segment is of two."""
    document = {
        token: "abcdefghi".index(token.removeprefix("##")) // 3
        for token in VOCABULARY[5:]
        if token.removeprefix("##") in "abcdefghi"
    }
    of = {VOCABULARY.index(token): number for token, number in document.items()}
    starts = segments.starts.tolist()
    for item, start in zip(segments, starts, strict=True):
        first, second = parts_of(item)
        assert first
        assert second
        assert len(first) + len(second) <= 13
        assert not segments.continues[second[0]]
        assert len({of[i] for i in first}) == len({of[i] for i in second}) == 1
        is_next = item.example.labels["next"] == "next"
        assert (of[first[0]] == of[second[0]]) == is_next
        whole = segments.text.ids[start : start + len(first) + len(second)].tolist()
        assert whole[: len(first)] == first
        if is_next:
            assert whole == first + second


def test_segments_follow_from_the_seed(segments: Corpus) -> None:
    again = Corpus(
        segments.text, segments.starts, segments.ends, segments.tokenizer, segments.tasks,
        "segments", 1, 0,
    )  # fmt: skip
    some = range(50)
    assert [segments[i].parts for i in some] == [segments[i].parts for i in some]
    assert [segments[i].parts for i in some] != [again[i].parts for i in some]
    part = segments.part(10, 20)
    assert [item.parts for item in part] == [segments[i].parts for i in range(10, 20)]
    assert [item.number for item in part] == list(range(10, 20))


def test_what_is_held_out_is_never_read_in_training(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Segments from elsewhere too are of the same side. Each word occurs once, so it has one."""
    texts = [" ".join(f"{a}{b}{c}" for b in LETTERS for c in LETTERS[:9]) for a in LETTERS[:8]]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    whole = corpus_of([tmp_path / "text.txt"], tokenizer, has_next=True)
    for at in (len(whole) // 2, len(whole) - 1):
        train, dev = whole.split(at)
        border = int(train.ends[-1])
        assert border <= dev.starts[0]
        assert len(train) + len(dev) == len(whole)
        assert len(dev) >= len(whole) - at
        ids = whole.text.ids.tolist()
        for side, allowed in ((train, ids[:border]), (dev, ids[border:])):
            stretches = " ".join(map(str, allowed))
            for item in side:
                _, second = parts_of(item)
                assert f" {' '.join(map(str, second))} " in f" {stretches} "
            assert {"next", "random"} == {item.example.labels["next"] for item in side}


def test_too_few_documents_to_hold_some_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b c\n\nd e f")
    whole = corpus_of([tmp_path / "text.txt"], tokenizer, has_next=True)
    with pytest.raises(InputError, match="two documents to learn from and two to measure with"):
        whole.split(1)


def test_short_documents_and_long_words(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A document of one token has no two segments; a word longer than a sequence is cut."""
    (tmp_path / "text.txt").write_text(f"a\n\nb c\n\n{'d' * 30}\n\ne fg")
    for seed in range(20):
        corpus = corpus_of([tmp_path / "text.txt"], tokenizer, has_next=True, seed=seed)
        found = [parts_of(item) for item in corpus]
        assert all(first and second for first, second in found)
        assert len(found) == 5  # the long word makes three


def test_a_model_of_two_positions_has_no_room(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b c")
    with pytest.raises(InputError, match="max_length = 2: a text needs at least 3"):
        corpus_of([tmp_path / "text.txt"], Tokenizer(tokenizer.backend, 2))


@pytest.mark.parametrize(("limit", "has_next"), [(3, False), (5, True)])
def test_the_shortest_sequences(
    limit: int, has_next: bool, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("a b c\n\nd e f")
    short = Tokenizer(tokenizer.backend, limit)
    assert len(corpus_of([tmp_path / "text.txt"], short, has_next)[0].parts[0].ids) == limit
    if has_next:
        short.max_length = limit - 1
        with pytest.raises(InputError, match="max_length = 4: two segments need at least 5"):
            corpus_of([tmp_path / "text.txt"], short, has_next)


# Memory

PROGRAM = """
import resource, sys
from pathlib import Path
from minibert.tokenizer import Tokenizer
from train.settings import Settings
from train.text import read_corpus
tokenizer = Tokenizer.from_folder(Path(sys.argv[1]))
tokenizer.max_length = 128
for name in sys.argv[2:]:
    corpus = read_corpus([Path(name)], Settings(), [], tokenizer)
    some = [corpus[i] for i in range(0, len(corpus), len(corpus) // 50)]
    print(len(corpus), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_is_flat(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Texts of 4 MB, of short lines and of a single line, take at most 15 MiB more than those of
    1 MB. Their ids alone, as Python's numbers, would take 16 MiB in a list."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    files = []
    for megabytes in (1, 4):
        for name, end in (("lines", "\n"), ("line", " ")):
            files.append(tmp_path / f"{megabytes}-{name}.txt")
            files[-1].write_text(f"{'a b ' * 20}{end}" * (megabytes * 10**6 // 81))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    counts, peaks = zip(
        *(map(float, line.split()) for line in done.stdout.splitlines()), strict=True
    )
    assert counts[2] == pytest.approx(4 * counts[0], rel=0.01)
    assert counts[3] == counts[2]
    assert peaks[3] < peaks[1] + 15
