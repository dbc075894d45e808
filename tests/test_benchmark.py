"""The benchmark's texts, batches, FLOP and tables. Nothing is timed here."""

import os
import random
from argparse import Namespace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minibert import Bert, BertConfig
from minibert.fast import has_arranged_products, inference_copy
from minibert.files import InputError, write_json
from minibert.layout import Packed
from minibert.model import Attention
from minibert.precision import instructions
from minibert.tokenizer import Tokenizer
from tools import int8_study
from tools.benchmark import corpora, encode, gpu, machine, parts, profile, show, train
from tools.benchmark import race as racing
from tools.benchmark.__main__ import asked_for, main
from tools.benchmark.race import Engine, Result, measurable, race, ready

SVG = "{http://www.w3.org/2000/svg}"
MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
}


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


def test_missing_texts_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "rates", lambda config, threads: {"float32": 123e9})
    assert main(["encode", "--data-root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "seq.in" in said.err
    assert "matrix products in GFLOP/s: 123 in float32" in said.out


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
    peer.precision = "bfloat16"
    limit, half = result("matrix products", "", 0.1), result("matrix products", "", 0.05)
    for each in (ours, peer):
        each.rounds[0]["flop"] = 19_200.0  # in 2 s, where 24,000 could be
    assert show.rows([ours, peer], {"float32": limit, "bfloat16": half})[1:] == [
        ("minibert", "2.00", "2.00-2.00", "600", "80%", "1.00", "7"),
        ("peer, 32 texts", "3.00", "3.00-3.00", "400", "27%", "1.50", "7"),
    ]


def test_the_limit_of_a_precision_is_its_fastest_way() -> None:
    slow, fast, other = (
        result("products", way, seconds) for way, seconds in zip("abc", (3, 1, 2), strict=True)
    )
    other.precision = "int8"
    assert machine.best([slow, fast, other]) == {"float32": fast, "int8": other}


@pytest.mark.parametrize("way", machine.WAYS["float32"])
def test_every_way_computes_the_same_product(way: str) -> None:
    layer, x = nn.Linear(48, 80), torch.randn(200, 48)
    with torch.inference_mode():
        torch.testing.assert_close(machine.WAYS["float32"][way](layer)(x), layer(x))


def takes_signed_tokens() -> bool:
    """Whether PyTorch multiplies int8 tokens by oneDNN. Version 2.5 takes uint8 only."""
    try:
        machine.arranged_int8(nn.Linear(8, 8))(torch.zeros(1, 8, dtype=torch.int8))
    except RuntimeError as error:
        return "should be uint8 (unsigned char)" not in str(error)
    return True


# Without VNNI, oneDNN adds up pairs of products in 16 bits, which overflow.
vnni = pytest.mark.skipif(
    "avx512_vnni" not in instructions()
    or "ONEDNN_MAX_CPU_ISA" in os.environ
    or not takes_signed_tokens(),
    reason="eight-bit products need VNNI to be exact, and a PyTorch that takes int8 tokens",
)


@vnni
def test_eight_bit_products_are_those_of_integers() -> None:
    layer, x = nn.Linear(48, 80), torch.randint(-127, 128, (200, 48), dtype=torch.int8)
    weight, scales = machine.eight_bits(layer)
    torch.testing.assert_close(weight * scales[:, None], layer.weight, rtol=0, atol=scales.max())
    exact = x.double() @ weight.double().T
    assert torch.equal(machine.int_mm(layer)(x), exact.int())
    torch.testing.assert_close(machine.arranged_int8(layer)(x), (exact * scales).float())


def test_products_that_cannot_be_trained_do_nothing() -> None:
    work = machine.matrix_products(48, 80, "cpu", "float32", seconds=0.01)
    done = {
        (job, way): work(job, way)["done"]
        for job in machine.PRODUCTS
        for way in machine.WAYS["float32"]
    }
    trained = [job for job, (_, trains) in machine.PRODUCTS.items() if trains]
    assert [key for key, value in done.items() if not value] == [
        (job, machine.ARRANGED) for job in trained
    ]
    results = {
        job: [Result("", way, [{"seconds": 2.0, "done": 8e9}])]
        for job, way in (("one", "a"), ("two", "a"))
    }
    results["two"][0].rounds[0]["done"] = 0
    assert show.products(results)[1:] == [("float32, a", "4", "-")]


def test_an_engine_with_other_vectors_is_refused_unless_it_is_a_peer_of_lower_precision() -> None:
    def with_cosine(name: str, cosine: float, precision: str = "float32") -> Result:
        return Result(name, "", [{"cosine": 1.0}, {"cosine": cosine}], precision)

    ours = with_cosine("minibert", 1.0)
    encode.check([ours, with_cosine("peer, int8", 0.96, "int8")])
    with pytest.raises(InputError, match=r"peer: .* 0\.99900"):
        encode.check([ours, with_cosine("peer", 0.999)])
    with pytest.raises(InputError, match=r"minibert, bfloat16: .* 0\.99900"):
        encode.check([ours, with_cosine("minibert, bfloat16", 0.999, "bfloat16")])


def test_what_cannot_be_measured_is_named_with_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Engine("here", encode.ours, {}, packages=("numpy",))
    there = Engine("there", encode.ours, {}, packages=("no-such-package",))
    half = Engine("half", encode.ours, {}, precision="bfloat16")
    monkeypatch.setattr(racing, "computes_bfloat16", lambda: False)
    for has, reason in (
        (["avx2"], "this processor has no avx512_bf16"),
        (["avx2", "avx512_bf16"], "PyTorch is kept from this processor's avx512_bf16"),
    ):
        monkeypatch.setattr(racing, "instructions", lambda found=has: found)
        assert measurable([here, there, half]) == [here]
        assert capsys.readouterr().out.splitlines() == [
            "not measured: there: package no-such-package is not installed",
            f"not measured: half, bfloat16: {reason}",
        ]
    on_card = Engine("half", encode.ours, {}, precision="bfloat16", device="cuda")
    monkeypatch.setattr(racing, "computes_bfloat16", lambda: True)
    assert measurable([half, on_card]) == [half, on_card]


def test_a_limited_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert "LIMITED" not in machine.described(machine.facts(1))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "LIMITED to AVX2 by ONEDNN_MAX_CPU_ISA" in machine.described(machine.facts(1))


def test_engines_are_chosen_by_name_and_precision() -> None:
    def labels(engines: list[Engine], *precision: str, only: tuple[str, ...] = ()) -> list[str]:
        options = Namespace(only=only, precision=precision)
        return [engine.label for engine in asked_for(engines, options)]

    found = encode.engines(Path(), Path(), 1)
    assert labels(found, "float32", "bfloat16", "int8") == [
        *("minibert", "minibert, bfloat16"),
        *("sentence-transformers", "sentence-transformers, bfloat16"),
        *("transformers", "transformers, bfloat16"),
        *("onnxruntime", "onnxruntime, int8"),
        *("OpenVINO", "OpenVINO, bfloat16"),
        *("CTranslate2", "CTranslate2, int8"),
    ]
    assert labels(found, "int8") == ["minibert", "onnxruntime, int8", "CTranslate2, int8"]
    assert labels(found, "float32", "bfloat16", only=("OpenVINO",)) == [
        *("minibert", "OpenVINO", "OpenVINO, bfloat16")
    ]
    with pytest.raises(InputError, match="--only tensorflow: the engines are minibert; sent"):
        labels(found, "float32", only=("tensorflow",))


def test_a_card_trains_in_bfloat16_only_and_a_cpu_in_both() -> None:
    assert {engine.precision for engine in train.engines("newsroom", 8, "cuda")} == {"bfloat16"}
    both = [engine.label for engine in train.engines("newsroom", 8)]
    assert both[0] == "minibert, packed"
    assert "transformers, grouped by length, bfloat16" in both


def test_texts_are_encoded_as_often_as_the_job_says(tmp_path: Path) -> None:
    job = {"texts": ["a text"], "calls": 3, "done": 4, "flop": 9}
    write_json(tmp_path / "corpora.json", {"4 tokens": job})
    calls = []

    def one(texts: list[str], batch: str) -> encode.Vectors:
        calls.append((texts, batch))
        return np.ones((1, 1), np.float32)

    told = encode.encode_work(one, str(tmp_path))("4 tokens", "32 texts")
    assert calls == [(["a text"], "32 texts")] * 3
    assert told["quickest"] <= told["seconds"]
    assert (told["done"], told["flop"], told["cosine"]) == (4, 9, 1)


def test_latencies_are_in_milliseconds() -> None:
    found = result("peer", "32 texts", 0.002, 0.004, 0.003)
    for each in found.rounds:
        each["quickest"] = each["seconds"] / 2
    assert show.latencies({"12 tokens, 1 thread": [found]})[1:] == [("peer", "3.00 (1.00)")]


def test_a_profile_sorts_operations_by_kind() -> None:
    times = {"mkldnn::_linear_pointwise": 6.0, "aten::bmm": 1.0, "aten::copy_": 2.0, "aten::t": 1.0}
    shares = profile.by_kind(times)
    assert [shares[kind] for kind in ("attention", "norms", profile.REST)] == [0.1, 0.0, 0.1]
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("part", parts.JOINED)
def test_what_is_taken_apart_computes_the_same(part: str) -> None:
    bert = Bert(BertConfig(**MODEL), pooler=False).eval()
    input_ids, layout = torch.arange(12), Packed([5, 7])
    fast, apart = inference_copy(bert), inference_copy(bert)
    parts.take_apart(apart, *parts.JOINED[part], torch.float32)
    if has_arranged_products():
        assert [type(a) for a in fast.modules()] != [type(a) for a in apart.modules()]
    with torch.inference_mode():
        expected = fast(input_ids, layout=layout)
        torch.testing.assert_close(apart(input_ids, layout=layout), expected)


@vnni
def test_eight_bit_layers_are_near_their_own() -> None:
    layers, x = [nn.Linear(48, 64), nn.Linear(48, 16)], torch.randn(3, 7, 48)
    with torch.inference_mode():
        expected = torch.cat([layer(x) for layer in layers], dim=-1)
        for gelu in (False, True):
            found = int8_study.Int8Product(layers, torch.float32, gelu)(x)
            exact = nn.functional.gelu(expected) if gelu else expected
            torch.testing.assert_close(found, exact, rtol=0, atol=0.05)
            assert not torch.equal(found, exact)


def test_attention_without_padding_is_that_of_each_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch's kernel runs on a card only, so a stand-in for it is called here."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="PyTorch has it since 2.10")

    def of_each(
        query: Tensor, key: Tensor, value: Tensor, starts: Tensor, _: Tensor, longest: int, __: int
    ) -> Tensor:
        assert starts.tolist() == [0, 5, 12]
        assert longest == 7
        cut = [x.split(starts.diff().tolist()) for x in (query, key, value)]
        heads = [[x.transpose(0, 1) for x in sentence] for sentence in zip(*cut, strict=True)]
        found = [nn.functional.scaled_dot_product_attention(*sentence) for sentence in heads]
        return torch.cat([x.transpose(0, 1) for x in found])

    monkeypatch.setattr(varlen, "varlen_attn", of_each)
    attention, layout = Attention(BertConfig(**MODEL)).eval(), Packed([5, 7])
    x = torch.randn(12, MODEL["hidden_size"])
    expected = attention(x, layout)
    attention.__class__ = gpu.VariableLengthAttention
    torch.testing.assert_close(attention(x, layout), expected)


def test_engines_take_turns_in_processes_of_their_own(minilm: Path, tmp_path: Path) -> None:
    write_json(
        tmp_path / "corpora.json",
        {"two": {"texts": ["one text", "another"], "calls": 1, "done": 7, "flop": 9}},
    )
    engine = Engine("minibert", encode.ours, {"folder": str(tmp_path), "model": str(minilm)})
    with ready([engine, engine], threads=1) as workers:
        first, second = race(workers, 2, "two")
        assert workers[0].process.pid != workers[1].process.pid
    for found in (first, second):
        assert found.values("done") == [7, 7]
        assert found.values("cosine") == pytest.approx([1, 1], abs=1e-6)
    assert [worker.process.returncode for worker in workers] == [0, 0]


def test_the_picture_reads_without_the_text(tmp_path: Path) -> None:
    """What is timed, on which machine, and each engine's number in each group, as text."""
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    panels = {
        "short": {"minibert": 1.0, "a peer, int8": 2.25},
        "a $corpus$": {"minibert": 1.0, "a peer, int8": 1.5},
    }
    show.plot(panels, "texts to vectors", "some processor", tmp_path / "speed.svg")
    root = ElementTree.parse(tmp_path / "speed.svg").getroot()
    said = ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]
    for name in ("minibert", "a peer, int8", "1.00"):
        assert said.count(name) == 2
    groups = ["short utterances", "2.25", "a $corpus$", "1.50"]
    assert [text for text in said if text in groups] == groups
    assert {"texts to vectors", "some processor", "time / time of minibert: shorter is faster"} <= {
        *said
    }
    bars = [path.get("style", "") for path in root.iter(f"{SVG}path")]
    ours, theirs = (sum(f"fill: var(--{c})" in bar for bar in bars) for c in ("vermillion", "ink"))
    assert (ours, theirs) == (2, 2)
    assert "prefers-color-scheme:dark" in next(root.iter(f"{SVG}style")).text
