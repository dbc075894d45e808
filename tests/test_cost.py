"""The model of time and cost: its formulas against simulations, PyTorch's own counts and numbers
that were made by known constants; and its tables as the document has them."""

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minibert import Bert, BertConfig
from minibert.files import InputError
from minibert.layout import Packed
from minibert.pretraining import BertForPreTraining
from tests.documents import ROOT
from tools.benchmark import cost, machine, scale, tables
from tools.benchmark.__main__ import MEASURED, main
from tools.benchmark.race import Result

DOCUMENT = ROOT / "tools/benchmark/SCALE.md"
KNOWN = cost.Constants(
    cores=2,
    latency=1e-4,
    bandwidth=2e9,
    compute=0.4,
    update=0.05,
    gradient_bytes=50_000_000,
    step_flop=4e10,
    imbalance={1: 1.0, 2: 1.02, 4: 1.05},
    start=3.0,
    stages={
        "read": 1e-6,
        "tokenize": 1e-4,
        "write": 1e-5,
        **{f"compute, {m}, {p}": 7e-3 for m in cost.MODELS for p in ("float32", "bfloat16")},
    },
    text_bytes=120.0,
    example_bytes=3000.0,
)


def result(name: str, **told: float) -> Result:
    slower = told | {"seconds": told["seconds"] * 1.5}
    return Result(name, "", [slower, told])


def measured_as(known: cost.Constants) -> dict[str, list[Result]]:
    """What a machine would measure that is exactly as the model says."""
    counts, sizes = known.imbalance, (2**12, 2**20, 2**26)
    return {
        "all_reduce": [
            result(
                f"{n}",
                seconds=max(1, n / 2) * cost.all_reduce(n, size, known.latency, known.bandwidth),
                processes=n,
                bytes=size,
            )
            for n in (2, 4)
            for size in sizes
        ],
        "update": [
            result("", seconds=known.update, bytes=known.gradient_bytes, flop=known.step_flop)
        ],
        "training": [
            result(f"{n}", seconds=cost.step_seconds(known, n), processes=n, imbalance=factor)
            for n, factor in counts.items()
        ],
        "encoding": [
            result("start", seconds=known.start, processes=1, done=1),
            *(
                result(f"{n}", seconds=cost.encode_seconds(known, n, 500), processes=n, done=500)
                for n in counts
            ),
        ],
        "stages": [
            result(name, seconds=100 * seconds, done=100, bytes=100 * known.text_bytes)
            for name, seconds in known.stages.items()
        ],
        "examples": [result("", seconds=1.0, done=10, bytes=10 * known.example_bytes)],
    }


def test_the_constants_are_those_that_made_the_measurements() -> None:
    results = measured_as(KNOWN)
    found = cost.constants(results, cores=2)
    for name, value in vars(KNOWN).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name
    errors = [row[-1] for row in tables.measured_beside_model(results, found)[1:]]
    assert len(errors) == 12
    assert {error.lstrip("+-") for error in errors} == {"0%"}


def test_a_fit_bears_noise() -> None:
    dice = random.Random(0)
    measured = [
        (n, size, dice.uniform(0.9, 1.1) * cost.all_reduce(n, size, 5e-5, 3e9))
        for n in (2, 3, 4, 8)
        for size in (2**10, 2**15, 2**20, 2**25)
    ]
    assert cost.fit_all_reduce(measured) == pytest.approx((5e-5, 3e9), rel=0.1)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_a_ring_takes_as_many_messages_as_the_model_says(processes: int) -> None:
    """A ring that really adds up: each process sends one piece at a time to its neighbour."""
    pieces = np.arange(processes * processes, dtype=float).reshape(processes, processes)
    whole, messages = pieces.sum(0), 0
    for turn in range(2 * (processes - 1)):
        sent = [(rank, (rank - turn) % processes) for rank in range(processes)]
        values = [pieces[rank, piece] for rank, piece in sent]
        for (rank, piece), value in zip(sent, values, strict=True):
            neighbour = (rank + 1) % processes
            pieces[neighbour, piece] = value + (
                pieces[neighbour, piece] if turn < processes - 1 else 0
            )
        messages += 1
    assert np.array_equal(pieces, np.tile(whole, (processes, 1)))
    size = 12_000.0
    expected = messages * (2e-4 + size / processes / 1e9)
    assert cost.all_reduce(processes, size, 2e-4, 1e9) == pytest.approx(expected)


def test_processes_that_outnumber_the_cores_take_turns() -> None:
    one, two, four = (cost.step_seconds(KNOWN, n) for n in (1, 2, 4))
    assert one == pytest.approx(KNOWN.compute + KNOWN.update)
    assert two < one
    assert four > two
    assert cost.encode_seconds(KNOWN, 2, 10_000) < cost.encode_seconds(KNOWN, 1, 10_000)
    assert cost.encode_seconds(KNOWN, 4, 10_000) > cost.encode_seconds(KNOWN, 2, 10_000)


def test_flop_of_pretraining_are_what_pytorch_counts() -> None:
    """Forward and backward, of the encoder and both heads, by the plain model."""
    config = BertConfig(
        vocab_size=70,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
    )
    model, length, masked = BertForPreTraining(config), 50, 8
    assert model.next_sentence is not None
    assert model.bert.pooler is not None
    with FlopCounterMode(display=False) as counter:
        hidden = model.bert(torch.arange(length), layout=Packed([length]))
        words = model.word_logits(hidden[:masked])
        follows = model.next_sentence(model.bert.pooler(hidden[:1]))
        (words.sum() + follows.sum()).backward()
    assert counter.get_total_flops() == 3 * cost.sequence_flop(config, length, masked)


def test_flop_of_the_paper_are_a_tenth_more_than_the_rule_of_thumb() -> None:
    """6 N D leaves out attention's products and the vocabulary. D is 42.6 billion tokens."""
    with torch.device("meta"):
        bert = Bert(cost.BERT_BASE)
    assert cost.num_parameters(cost.BERT_BASE) == sum(p.numel() for p in bert.parameters())
    encoder = sum(p.numel() for name, p in bert.named_parameters() if name.startswith("layers"))
    rule = 6 * encoder * 256 * (900_000 * 128 + 100_000 * 512)
    assert 1.05 < cost.pretraining_flop() / rule < 1.12


def test_what_overlaps_takes_as_long_as_the_longest() -> None:
    machine = cost.gpus(2)
    work = {"model": 3600.0, "tokenizer": 7200.0, "disk": 1800.0}
    in_turns = cost.Prediction(machine, work)
    assert (in_turns.seconds, in_turns.exhausted) == (10_800, "tokenizer")
    assert in_turns.cost == pytest.approx(3 * 2 * cost.GPU_PRICE)
    fed = cost.Prediction(replace(machine, overlaps=True), work)
    assert fed.seconds == 7200
    slow_disk = cost.Prediction(machine, work | {"disk": 20_000.0})
    assert (slow_disk.seconds, slow_disk.exhausted) == (20_000, "disk")


def test_machines_scale_as_they_are_said_to() -> None:
    """Twice the cores, half the time of the model; a batch four times as large, a quarter of the
    messages; a single device sends none."""
    small, large = (cost.embedding(KNOWN, cost.cpus(KNOWN, n), "base") for n in (32, 64))
    assert small.work["model"] == pytest.approx(2 * large.work["model"])
    assert small.work["model"] == pytest.approx(1e9 * 7e-3 / 32)
    assert small.cost == pytest.approx(large.cost, rel=0.1)
    few, many = (cost.fine_tuning(KNOWN, cost.cpus(KNOWN, 64), batch) for batch in (32, 128))
    assert few.work["network"] == pytest.approx(4 * many.work["network"])
    assert few.work["model"] == many.work["model"]
    assert cost.pretraining(KNOWN, cost.gpus(1)).work["network"] == 0


@pytest.mark.parametrize(
    ("lengths", "processes", "expected"),
    [((4, 3, 3, 2), 2, 1.0), ((5, 1, 1), 2, 10 / 7), ((3,), 4, 4.0), ((7, 2), 1, 1.0)],
)
def test_imbalance_is_the_largest_share_over_the_mean(
    lengths: tuple[int, ...], processes: int, expected: float
) -> None:
    items: Any = [SimpleNamespace(num_tokens=n, number=i) for i, n in enumerate(lengths)]
    assert scale.imbalance([items, items], processes) == pytest.approx(expected)


def test_each_stage_works_on_all_sentences(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one text\nanother\n", encoding="utf-8")
    work = scale.stage_work(str(tmp_path), str(minilm), 2)
    for stage in cost.STAGES:
        told = work(stage, "")
        assert told["seconds"] > 0
        assert told["bytes"] == 17
        assert told["done"] == 7 / cost.TOKENS  # [CLS] and [SEP] with each
    assert np.load(tmp_path / "stage.npy").shape == (2, 384)


def test_the_collective_is_timed_for_each_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(scale, "SIZES", (64, 128))
    scale.reduce_all(tmp_path / "seconds.json")
    seconds = json.loads((tmp_path / "seconds.json").read_text(encoding="utf-8"))
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_the_document_has_the_tables_of_the_recorded_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    cores, results = cost.read_results(MEASURED)
    found = tables.document(results, cost.constants(results, cores))
    for title, rows in found.items():
        assert f"\nTable: {title}\n\n{tables.markdown(rows)}\n" in text, title
    assert text.count("\nTable: ") == len(found)
    assert main(["cost"]) == 0
    assert all(row in text for row in capsys.readouterr().out.splitlines() if row.startswith("|"))


@pytest.mark.parametrize("processes", [["1"], ["2", "4"], ["1", "1000000"]])
def test_what_cannot_be_fitted_is_not_measured(
    processes: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "rates", lambda config, threads: {})
    assert main(["scale", "--processes", *processes]) == 2
    assert f"--processes {' '.join(processes)}: the first must be 1" in capsys.readouterr().err


def test_tables_are_put_into_a_document(tmp_path: Path) -> None:
    old = "Before.\n\nTable: a\n\n| x |\n| --- |\n| 1 |\n\nTable: b\n\nAfter.\n"
    new = tables.put_into(old, {"a": [("x",), ("2",), ("3",)], "b": [("y",), ("4",)]})
    assert new == (
        "Before.\n\nTable: a\n\n| x |\n| --- |\n| 2 |\n| 3 |\n\n"
        "Table: b\n\n| y |\n| --- |\n| 4 |\n\nAfter.\n"
    )
    with pytest.raises(InputError, match='no line "Table: c"'):
        tables.put_into(old, {"c": [("x",)]})
