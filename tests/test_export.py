"""export.py: onnxruntime computes our vectors from the file, for texts of any number and length."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from minibert import BertConfig, InputError, SentenceEncoder, export
from minibert.__main__ import main
from minibert.after import AfterPooling, Dense
from minibert.export import export_onnx
from minibert.model import Bert
from tests.test_encoder import TEXTS, D, small_encoder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return small_encoder(tmp_path / "v")


def with_layers(
    encoder: SentenceEncoder, pooling: str, truncate_dim: int | None
) -> SentenceEncoder:
    after = AfterPooling(nn.LayerNorm(2 * D), Dense(2 * D, 10, True, nn.Tanh()))
    return SentenceEncoder(
        encoder.bert,
        encoder.tokenizer,
        after=after,
        pooling=pooling,
        normalize=True,
        truncate_dim=truncate_dim,
    )


def run(file: Path, encoder: SentenceEncoder, texts: list[str]) -> np.ndarray:
    """The vectors of a padded batch, by onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    tokens = [one.ids for one in encoder.tokenizer.encode(texts, "silent")]
    shape = len(texts), max(map(len, tokens))
    inputs = {one.name: np.zeros(shape, np.int64) for one in session.get_inputs()}
    for row, ids in enumerate(tokens):
        inputs["input_ids"][row, : len(ids)] = ids
        inputs["attention_mask"][row, : len(ids)] = 1
    assert [one.name for one in session.get_outputs()] == ["sentence_embedding"]
    (vectors,) = session.run(None, inputs)
    return np.asarray(vectors)


@pytest.mark.parametrize(
    "pooling", ["mean+max", "cls+lasttoken", "weightedmean+mean_sqrt_len_tokens"]
)
@pytest.mark.parametrize("truncate_dim", [None, 4])
def test_a_graph_has_pooling_layers_and_normalisation(
    pooling: str, truncate_dim: int | None, encoder: SentenceEncoder, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    encoder = with_layers(encoder, pooling, truncate_dim)
    difference = export_onnx(encoder, tmp_path / "model.onnx")
    assert 0 <= difference < 1e-5
    for texts in (TEXTS, TEXTS[:1], ["z " * 60, "a"]):
        found = run(tmp_path / "model.onnx", encoder, texts)
        assert np.abs(found - encoder.encode(texts, truncation="silent")).max() < 1e-5
    assert encoder.dim() == found.shape[1] == (truncate_dim or 10)


def test_a_model_without_token_types_has_no_input_for_them(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    config = BertConfig(
        encoder.bert.config.vocab_size, D, 1, 3, 40, 42, 1, pad_token_id=1, model_type="roberta"
    )
    roberta = SentenceEncoder(Bert(config).eval(), encoder.tokenizer)
    export_onnx(roberta, tmp_path / "model.onnx")
    found = run(tmp_path / "model.onnx", roberta, TEXTS)
    assert np.abs(found - roberta.encode(TEXTS, truncation="silent")).max() < 1e-5


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"dtype": "float64"}, {"precision": "auto"}]
)
def test_a_graph_computes_in_float32(
    options: dict[str, str], encoder: SentenceEncoder, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    encoder.save_pretrained(tmp_path / "model")
    other = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu", **options)  # type: ignore[arg-type]
    assert export_onnx(other, str(tmp_path / "model.onnx")) < 1e-5
    found = run(tmp_path / "model.onnx", encoder, TEXTS)
    assert found.dtype == np.float32
    exact = encoder
    if "dtype" in options:  # whose weights are rounded
        exact = SentenceEncoder(copy.deepcopy(other.bert).float(), encoder.tokenizer)
    assert np.abs(found - exact.encode(TEXTS, truncation="silent")).max() < 1e-5


def test_a_graph_that_computes_something_else_is_not_written(
    encoder: SentenceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    target = tmp_path / "model.onnx"
    target.write_bytes(b"before")
    monkeypatch.setattr(export, "pool", lambda hidden, layout, pooling: hidden[:, 1])
    with pytest.raises(InputError, match=r"model\.onnx is not written: its vectors would differ"):
        export_onnx(encoder, target)
    assert target.read_bytes() == b"before"
    assert [file.name for file in tmp_path.glob("*onnx*")] == ["model.onnx"]


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    missing: str, encoder: SentenceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for other in {"onnx", "onnxruntime"} - {missing}:
        monkeypatch.setitem(sys.modules, other, torch)  # whatever is importable
    with pytest.raises(InputError, match=f"^{missing} is not installed.*pip install onnx onnxrun"):
        export_onnx(encoder, tmp_path / "model.onnx")


def test_the_command_line(
    encoder: SentenceEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    encoder.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "model.onnx")]) == 0
    assert "vectors of 24 numbers, which differ from ours by at most" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "model.bin")]) == 2
    assert "the name of an ONNX file must end in .onnx" in capsys.readouterr().err
