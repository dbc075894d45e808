"""The benchmark's texts, batches, FLOP and tables. Nothing is timed here."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minibert import Bert, BertConfig
from minibert.files import InputError, write_json
from minibert.layout import Packed
from minibert.tokenizer import Tokenizer
from tools.benchmark import corpora, encode, machine, show
from tools.benchmark.__main__ import main
from tools.benchmark.race import Engine, Result, installed, race, ready


def result(engine: str, batch: str, *seconds: float) -> Result:
    return Result(engine, batch, [{"seconds": s, "done": 1200.0, "peak_mib": 7.0} for s in seconds])


@pytest.mark.parametrize("from_files", [True, False])
def test_corpora_have_the_lengths_that_are_asked_for(
    minilm: Path, tmp_path: Path, from_files: bool
) -> None:
    if from_files:
        lines = "".join(f"play the song number {i} by anyone\n" * 2 for i in range(30))
        for file in ("snips/train/seq.in", "tweeteval/sentiment/train_text.txt"):
            (tmp_path / file).parent.mkdir(parents=True)
            (tmp_path / file).write_text(lines, encoding="utf-8")
    tokenizer = Tokenizer.from_folder(minilm)
    found = corpora.corpora(tokenizer, tmp_path if from_files else None, 25)
    assert list(found) == ["short", "tweets", "mixed"]
    for texts in found.values():
        assert len(texts) == 25
        assert len(set(texts)) == 25
    lengths = [len(tokens.ids) for tokens in tokenizer.encode(found["mixed"])]
    # A word is never cut. So a text may be some tokens short, and a single word some tokens longer.
    expected = corpora.log_uniform(4, 256, 1000, random.Random(0))
    assert min(expected) == 4
    assert max(expected) > 250
    # the middle of 4 and 256, in logarithms
    assert np.quantile(expected, 0.5) == pytest.approx(32, rel=0.15)
    assert max(lengths) <= 256
    assert max(lengths) > 60


def test_a_cut_takes_the_words_that_fit_beside_cls_and_sep() -> None:
    words = iter([("a", 1), ("bb", 2), ("long", 9), ("c", 1), ("d", 1), ("e", 1)])
    assert corpora.cut(words, [5, 4, 4]) == ["a bb", "long", "c d"]


def test_missing_texts_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "--data-root", str(tmp_path)]) == 2
    assert "seq.in" in capsys.readouterr().err


def test_sorted_batches_hold_every_text_once_and_no_more_than_asked_for() -> None:
    lengths = [random.Random(i).randint(1, 40) for i in range(101)]
    for batch, limit in (("32 texts", 32), ("100 tokens", 100)):
        found = list(encode.sorted_batches(lengths, batch))
        assert sorted(i for chosen in found for i in chosen) == list(range(101))
        assert [lengths[i] for chosen in found for i in chosen] == sorted(lengths, reverse=True)
        for chosen in found:
            assert (len(chosen) if "texts" in batch else len(chosen) * lengths[chosen[0]]) <= limit
    assert list(encode.sorted_batches([500], "100 tokens")) == [[0]]


def test_batches_give_each_text_its_own_vector(minilm: Path) -> None:
    texts = ["a b c", "a", "a b c d e f", "a b"]
    encoded = encode.in_batches(
        lambda ids, mask: np.stack([mask.sum(1), ids.sum(1)], 1).astype(np.float32), str(minilm)
    )
    tokens = Tokenizer.from_folder(minilm).encode(texts)
    expected = [[len(t.ids), sum(t.ids)] for t in tokens]
    for batch in ("2 texts", "12 tokens"):
        np.testing.assert_array_equal(encoded(texts, batch), expected)


def test_flop_are_what_pytorch_counts() -> None:
    """By the plain model: PyTorch does not count fused attention on a CPU."""
    config = BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    bert = Bert(config, pooler=False).eval()
    lengths = [5, 90, 1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bert(torch.ones(96, dtype=torch.int64), layout=Packed(lengths))
    assert machine.useful_flop(config, lengths) == counter.get_total_flops()
    minilm = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    # query, key, value, output: 384 x 384 each; up and down: 384 x 1536 each; two operations a
    # weight, six layers
    assert machine.useful_flop(minilm, [1]) == 6 * 2 * (4 * 147_456 + 2 * 589_824 + 2 * 384)


def test_ratios_are_of_rounds_and_of_the_best_batching() -> None:
    ours = result("minibert", "", 1.0, 2.0, 4.0)
    slow, fast = (
        result("peer", "32 texts", 3.0, 6.0, 12.0),
        result("peer", "1024 tokens", 2.0, 5.0, 8.0),
    )
    assert show.ratios([ours, slow, fast]) == {"minibert": 1.0, "peer": 2.0}
    assert show.ratios([ours, slow]) == {"minibert": 1.0, "peer": 3.0}


def test_rows_give_the_share_of_the_limit() -> None:
    ours, peer = result("minibert", "", 2.0), result("peer", "32 texts", 3.0)
    limit = Result("matrix products", "", [{"seconds": 1.0, "done": 12_000.0, "peak_mib": 1.0}])
    for each in (ours, peer):
        each.rounds[0]["flop"] = 19_200.0  # in 2 s, where 24,000 could be
    assert show.rows([ours, peer], limit)[1:] == [
        ("minibert", "2.00", "2.00-2.00", "600", "80%", "1.00", "7"),
        ("peer, 32 texts", "3.00", "3.00-3.00", "400", "53%", "1.50", "7"),
    ]


@pytest.mark.parametrize("way", machine.WAYS)
def test_every_way_computes_the_same_product(way: str) -> None:
    layer, x = nn.Linear(48, 80), torch.randn(200, 48)
    with torch.inference_mode():
        torch.testing.assert_close(machine.WAYS[way](layer)(x), layer(x))


def test_products_that_cannot_be_trained_do_nothing() -> None:
    work = machine.matrix_products(48, 80, "cpu", "float32", seconds=0.01)
    done = {(job, way): work(job, way)["done"] for job in machine.PRODUCTS for way in machine.WAYS}
    trained = [job for job, (_, trains) in machine.PRODUCTS.items() if trains]
    assert [key for key, value in done.items() if not value] == [
        (job, machine.ARRANGED) for job in trained
    ]
    results = {
        job: [Result("", way, [{"seconds": 2.0, "done": 8e9}])]
        for job, way in (("one", "a"), ("two", "a"))
    }
    results["two"][0].rounds[0]["done"] = 0
    assert show.products(results)[1:] == [("a", "4", "-")]


def test_an_engine_with_other_vectors_is_refused_and_int8_is_not() -> None:
    def with_cosine(name: str, cosine: float) -> Result:
        return Result(name, "", [{"cosine": 1.0}, {"cosine": cosine}])

    encode.check([with_cosine("minibert", 1.0), with_cosine("peer int8", 0.96)])
    with pytest.raises(InputError, match=r"peer: .* 0\.99900"):
        encode.check([with_cosine("minibert", 1.0), with_cosine("peer", 0.999)])


def test_what_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    here = Engine("here", encode.ours, {}, packages=("numpy",))
    assert installed([here, Engine("there", encode.ours, {}, packages=("no-such-package",))]) == [
        here
    ]
    assert (
        "not measured: there: package no-such-package is not installed" in capsys.readouterr().out
    )


def test_engines_take_turns_in_processes_of_their_own(minilm: Path, tmp_path: Path) -> None:
    write_json(
        tmp_path / "corpora.json", {"two": {"texts": ["one text", "another"], "done": 7, "flop": 9}}
    )
    engine = Engine("minibert", encode.ours, {"folder": str(tmp_path), "model": str(minilm)})
    with ready([engine, engine], threads=1) as workers:
        first, second = race(workers, 2, "two")
        assert workers[0].process.pid != workers[1].process.pid
    for found in (first, second):
        assert found.values("done") == [7, 7]
        assert found.values("cosine") == pytest.approx([1, 1], abs=1e-6)
    assert [worker.process.returncode for worker in workers] == [0, 0]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    show.plot(
        {"short": {"minibert": 1.0, "peer": 2.0}, "mixed": {"minibert": 1.0, "peer": 1.5}},
        tmp_path / "p.png",
    )
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
