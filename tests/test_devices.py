"""devices.py: devices and dtypes by their names, and one sentence for what is not there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minibert import InputError, SentenceEncoder
from minibert.devices import as_device, as_dtype
from tests.test_encoder import small_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_encoder(tmp_path / "v").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_a_dtype_by_its_name(name: str, folder: Path) -> None:
    wanted = getattr(torch, name)
    assert as_dtype(name) is as_dtype(f"torch.{name}") is as_dtype(wanted) is wanted
    encoder = SentenceEncoder.from_pretrained(folder, dtype=name)
    assert encoder.encode("a").dtype == np.float32
    assert encoder.bert.dtype is wanted


@pytest.mark.parametrize("dtype", [torch.int8, "int8", "half precision", torch.complex64, None, 16])
def test_another_dtype_is_refused(dtype: Any, folder: Path) -> None:
    with pytest.raises(InputError, match=r"^dtype .* is not one of float32, bfloat16, float16"):
        SentenceEncoder.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "bfloat16", "", "xla", "tpu:0"])
def test_a_device_that_is_not_there_is_one_sentence(device: str, folder: Path) -> None:
    with pytest.raises(InputError, match=f"^device = '{device}' cannot be used: ") as caught:
        SentenceEncoder.from_pretrained(folder, device=device)
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    for move in (encoder.to, lambda device: encoder.encode("a", device=device)):
        with pytest.raises(InputError, match=f"^device = '{device}' cannot be used: "):
            move(device)
    assert encoder.device.type == "cpu"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_device_that_is_chosen(
    cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert as_device(None) == torch.device(chosen)


def test_a_model_without_numbers_is_one_sentence(folder: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(folder)
    encoder.bert.to("meta")
    for texts in ("a", ["a", "b"]):
        with pytest.raises(InputError, match="the model is on the device meta"):
            encoder.encode(texts)


def test_a_name_is_for_from_pretrained() -> None:
    with pytest.raises(InputError, match=r"SentenceEncoder\.from_pretrained\('minilm'\)$"):
        SentenceEncoder("minilm")  # type: ignore[arg-type]
