"""Our numbers against numbers that others wrote down: tools/golden.py has them, each with its
source.

Evidence: none of them was computed by this project. MiniLM's always run. bert-base-uncased's need
its weights, from the folder that the environment variable MINIBERT_BERT_BASE names or from the
Hub's cache; nothing is downloaded.
"""

from pathlib import Path

import pytest
import torch

from minibert.files import sha256
from tools import golden
from tools.golden import RECORDS, Record


def folder_of(model: str) -> Path:
    """The model's folder; where it is not on this machine, the test is skipped."""
    try:
        return golden.folder_of(model)
    except golden.MissingWeightsError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "record", RECORDS, ids=lambda record: f"{record.model.partition('/')[2]}: {record.what}"
)
def test_a_recorded_value(record: Record) -> None:
    assert record.difference(folder_of(record.model)) <= record.tolerance


def test_minilm_is_the_published_file(minilm: Path) -> None:
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert sha256(minilm / "model.safetensors") == digest


def test_the_two_gelus_are_told_apart(minilm: Path) -> None:
    """What is recorded for one is not within the tolerance for the other."""
    exact, tanh = (golden.rows_by_gelu(minilm, name, [1]) for name in ("gelu", "gelu_new"))
    assert (exact - tanh).abs().max() > 2e-4


def test_the_mistake_is_one() -> None:
    """Without a mask, the longest text of a batch has the right mean, and another one has not."""
    folder = folder_of(golden.BERT_BASE)
    with torch.inference_mode():
        wrong = golden.means_with_the_padding(folder, golden.MISTAKE)
        right = golden.masked_means(folder, golden.MISTAKE)
    torch.testing.assert_close(wrong[0], right[0], rtol=0, atol=1e-5)
    assert (wrong[1] - right[1]).abs().max() > 0.01
