"""BERT's relatives against transformers: RoBERTa, XLM-R, DistilBERT and ELECTRA.

Evidence: random models that one side saves and the other opens; tokenizers that transformers'
own classes saved; its pipeline for masked words; and sentence-transformers, on folders that we
saved. Bounds are those of test_transformers.py.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from minibert import Bert
from tests.parity.test_transformers import BOUND, plain, sped_up
from tools.parity import masked_word_differences, random_model_differences, worst

pytestmark = pytest.mark.usefixtures("one_thread")

RELATIVES = ["roberta", "xlm-roberta", "distilbert", "electra"]


@pytest.mark.parametrize("variant", [plain, sped_up])
@pytest.mark.parametrize("number", range(30))
@pytest.mark.parametrize("model_type", RELATIVES)
def test_random_configs(
    model_type: str, number: int, variant: Callable[[Bert], Bert], tmp_path: Path
) -> None:
    """Hidden states and pooler within 1e-5, and the gradient of every parameter, in both
    layouts."""
    assert worst(random_model_differences(number, tmp_path, variant, model_type)) <= BOUND


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "distilbert"])
def test_masked_words(model_type: str, number: int, tmp_path: Path) -> None:
    assert masked_word_differences(number, tmp_path, model_type) <= BOUND
