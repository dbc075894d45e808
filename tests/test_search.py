"""python -m minibert search: what it finds equals the sorting of all scores by numpy."""

import gc
import io
import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibert import SentenceEncoder, batching
from minibert.__main__ import main
from minibert.commands import search
from minibert.nearest import Nearest
from tests.test_encoder import small_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES = ["hello world", "c d e"]
# Texts of the small vocabulary, all different, some blank lines, and one text a second time.
CORPUS = [" ".join("abcdefg"[int(c) % 7] for c in str(i * i * 7)) for i in range(40, 120)]
CORPUS[10], CORPUS[50], CORPUS[51] = "", "  ", CORPUS[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("search")
    prompts = {"query": "hello ", "document": "world "}
    small_encoder(folder / "vocabulary", prompts=prompts).save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS) + "\n")
    return str(tmp_path / "corpus.txt")


def brute_force(queries: np.ndarray, documents: np.ndarray) -> list[list[int]]:
    """The lines of CORPUS that are not blank, by their cosines with each query, the highest
    first."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    cosines = np.round(unit[0] @ unit[1].T, 5)  # so that a text and its copy are equal
    orders = np.argsort(-cosines, axis=1, kind="stable").tolist()
    return [[i + 1 for i in order if CORPUS[i].strip()] for order in orders]


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("window", [100, 2**18])  # characters: several windows, and one
@pytest.mark.parametrize("top", [1, 7, 500])
def test_search_equals_brute_force(
    window: int,
    top: int,
    model: str,
    corpus: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batching, "WINDOW_CHARACTERS", window)
    encoder = SentenceEncoder.from_pretrained(model)
    documents = encoder.encode(CORPUS, prompt="world ")
    wanted = brute_force(encoder.encode(QUERIES, prompt="hello "), documents)
    use = ["search", *QUERIES, "--model", model, "--input", corpus, "--top", str(top), "--json"]
    assert main(use) == 0
    found = records(capsys.readouterr().out)
    for query, lines in zip(QUERIES, wanted, strict=True):
        hits = [hit for hit in found if hit["query"] == query]
        assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
        assert [hit["text"] for hit in hits] == [CORPUS[hit["line"] - 1] for hit in hits]
        if top == 500:  # a text and its copy may change places
            assert sorted(hit["line"] for hit in hits) == sorted(lines)
        assert [hit["text"] for hit in hits] == [CORPUS[line - 1] for line in lines[:top]]
        [of_query] = encoder.encode([query], prompt="hello ", normalize=True)
        unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
        for hit in hits:
            assert abs(hit["score"] - float(unit[hit["line"] - 1] @ of_query)) < 1e-6


def test_prompts_may_be_others(model: str, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    use = ["search", "c d e", "--model", model, "--input", corpus, "--json", "--top", "80"]
    assert main([*use, "--query-prompt", "", "--document-prompt", "a "]) == 0
    encoder = SentenceEncoder.from_pretrained(model)
    [lines] = brute_force(encoder.encode(["c d e"], prompt=""), encoder.encode(CORPUS, prompt="a "))
    found = [hit["text"] for hit in records(capsys.readouterr().out)]
    assert found == [CORPUS[line - 1] for line in lines]


def test_what_people_read(model: str, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    use = ["search", *QUERIES, "--model", model, "--input", corpus, "--top", "2"]
    assert main([*use, "--json"]) == 0
    found = records(capsys.readouterr().out)
    assert main(use) == 0
    lines = [f"{hit['score']:7.4f}  {hit['line']:>6}  {hit['text']}" for hit in found]
    out = capsys.readouterr().out.splitlines()
    assert out == [QUERIES[0], *lines[:2], QUERIES[1], *lines[2:]]


@pytest.mark.parametrize("which", ["corpus", "queries", "a query"])
def test_standard_input(
    which: str,
    model: str,
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For the corpus or for the queries: the same result as from files."""
    (tmp_path / "queries.txt").write_text("\n".join([*QUERIES, ""]))
    use = ["search", "--model", model, "--json"]
    queries = ["--queries", str(tmp_path / "queries.txt")]
    assert main([*use, *queries, "--input", corpus]) == 0
    wanted = capsys.readouterr().out
    assert len(wanted.splitlines()) == 20
    file, options = {
        "corpus": (corpus, queries),
        "queries": (queries[1], ["--queries", "-", "--input", corpus]),
        "a query": (queries[1], ["-", "--input", corpus]),
    }[which]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(file).read_bytes())))
    assert main([*use, *options]) == 0
    assert capsys.readouterr().out == wanted


def test_search_refuses(
    model: str,
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "blank.txt").write_text("\n  \n")
    blank, absent = str(tmp_path / "blank.txt"), str(tmp_path / "absent.txt")
    for arguments, named in (
        ([], "give queries as arguments, or as --queries FILE"),
        (["a", "--queries", corpus], "give queries as arguments, or as --queries FILE"),
        (["--queries", "-"], "name the corpus with --input FILE"),
        (["--queries", "-", "--input", "-"], "name the corpus with --input FILE"),
        (["a", "--input", absent], f"cannot read {absent}"),
        (["a", "--input", blank], f"there is no text to search in {blank}: every line is blank"),
        (["--queries", blank, "--input", corpus], f"there is no query in {blank}"),
        (["a", " ", "--input", corpus], "a query is blank"),
        (["a", "--input", corpus, "--top", "0"], "--top 0: must be at least 1"),
    ):
        assert main(["search", "--model", model, *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert named in err
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["search", "--model", model, "a"]) == 2
    assert "no corpus: give it as --input FILE" in capsys.readouterr().err


class Line(str):
    """A text that can be watched."""

    __slots__ = ("__weakref__",)


def test_memory_stays_flat(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all lines, those of a window and the best are held."""
    alive: weakref.WeakSet[Line] = weakref.WeakSet()
    most = 0

    def lines(file: str) -> Iterator[str]:
        nonlocal most
        for i in range(2000):
            text = Line(CORPUS[i % 80] + f" {i}")
            alive.add(text)
            most = max(most, len(alive))
            yield text
            del text
        gc.collect()

    monkeypatch.setattr(batching, "WINDOW_CHARACTERS", 1000)  # some 60 lines
    monkeypatch.setattr(search, "lines_of", lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["search", "a", "--model", model, "--top", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert 0 < most < 300


def test_nearest_equals_sorting_whatever_the_blocks() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 9, size=(4, 300)).astype(np.float32)  # many equal ones
    for k in (1, 10, 300, 400):
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        for size in (1, 7, 300):
            nearest = Nearest(4, k)
            for start in range(0, 300, size):
                nearest.add(scores[:, start : start + size])
            assert nearest.seen == 300
            assert np.array_equal(nearest.numbers, order)
            assert np.array_equal(nearest.scores, np.take_along_axis(scores, order, axis=1))
