"""Sentence vectors against sentence_transformers.SentenceTransformer, from text to vector.

Evidence: both open the same folder and encode real texts of 3 tokens up to more than the limit of
256. Then each opens the folders that the other one saved. Each tokenizes, batches and pools in its
own way: we pack, they pad.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from minibert import SentenceEncoder
from minibert.heads import POOLINGS

BOUND = 1e-6


@pytest.fixture(scope="module")
def texts(sentences: list[str]) -> list[str]:
    """102 short texts, and 18 long ones, each of 2 to 30 short ones. Some have over 256 tokens."""
    short = sentences[:102]
    return short + [
        " ".join(sentences[i : i + count])
        for i, count in enumerate([2, 3, 4, 5, 8, 13] * 2 + [20, 25, 30] * 2)
    ]


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(minilm, device="cpu")


@pytest.fixture(scope="module")
def theirs(minilm: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm), device="cpu")


def test_vectors_of_real_texts(
    encoder: SentenceEncoder, theirs: SentenceTransformer, texts: list[str]
) -> None:
    """Each number within 1e-6, and every vector of length 1."""
    lengths = [len(tokens.ids) for tokens in encoder.tokenizer.encode(texts, "silent")]
    assert len(texts) == 120
    assert lengths.count(256) >= 4  # cut off, at the same place
    ours, expected = encoder.encode(texts, truncation="silent"), theirs.encode(texts)
    assert ours.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=BOUND)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=0, atol=BOUND)


def test_vectors_do_not_depend_on_the_neighbours(
    encoder: SentenceEncoder, texts: list[str]
) -> None:
    """A text alone, with 119 others, and in batches of other sizes: each number within 1e-6."""
    together = encoder.encode(texts, truncation="silent")
    alone = np.stack([encoder.encode(text, truncation="silent") for text in texts[::6]])
    np.testing.assert_allclose(alone, together[::6], rtol=0, atol=BOUND)
    small_batches = encoder.encode(texts[::-1], truncation="silent", batch_tokens=100)
    np.testing.assert_allclose(small_batches[::-1], together, rtol=0, atol=BOUND)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_we_save_they_open_and_back(
    minilm: Path, sentences: list[str], tmp_path: Path, pooling: str, normalize: bool
) -> None:
    """Our vectors, theirs from our folder, and ours from the folder that they saved.

    A vector of length 1 is held to 1e-6, any other to 1e-6 of its length.
    """
    texts, ours, theirs = sentences[:40], tmp_path / "ours", tmp_path / "theirs"
    encoder = SentenceEncoder.from_pretrained(minilm, pooling=pooling, max_length=24, device="cpu")
    encoder.settings = replace(encoder.settings, normalize=normalize)
    expected = encoder.encode(texts, truncation="silent")
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert bool(np.allclose(lengths, 1)) is normalize
    encoder.save_pretrained(ours)
    opened = SentenceTransformer(str(ours), device="cpu")
    opened.save_pretrained(str(theirs))
    back = SentenceEncoder.from_pretrained(theirs, device="cpu")
    read = back.settings
    assert (read.pooling, read.normalize, back.tokenizer.max_length) == (pooling, normalize, 24)
    for vectors in (opened.encode(texts), back.encode(texts, truncation="silent")):
        np.testing.assert_allclose(vectors / lengths, expected / lengths, rtol=0, atol=BOUND)
    shutil.rmtree(tmp_path)  # two models of 90 MB


@pytest.mark.parametrize(
    ("pooling", "include_prompt"), [("mean", True), ("mean", False), ("cls", False)]
)
def test_prompts_and_truncated_vectors(
    minilm: Path, sentences: list[str], tmp_path: Path, pooling: str, include_prompt: bool
) -> None:
    """A folder that they saved with prompts and a truncate_dim: the same vectors by default, by
    name, in words."""
    texts, folder = [*sentences[:12], "", " ".join(sentences[:10])], tmp_path / "theirs"
    theirs = SentenceTransformer(
        str(minilm),
        device="cpu",
        prompts={"query": "Represent this sentence, please: ", "passage": "passage: "},
        default_prompt_name="query",
        truncate_dim=100,
    )
    theirs.max_seq_length = 48  # the last text is longer: it is cut off behind the prompt
    theirs[1].pooling_mode = pooling
    theirs.set_pooling_include_prompt(include_prompt)
    theirs.save_pretrained(str(folder))
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    encoder.save_pretrained(tmp_path / "ours")
    back = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    for ours, expected in (
        ({}, {}),
        ({"prompt_name": "passage"}, {"prompt_name": "passage"}),
        ({"prompt": "to be read as: "}, {"prompt": "to be read as: "}),
        ({"prompt": "", "truncate_dim": 7}, {"prompt": "", "truncate_dim": 7}),
        ({"normalize": True}, {"normalize_embeddings": True}),
    ):
        vectors = encoder.encode(texts, truncation="silent", **ours)
        for model in (theirs, back):
            np.testing.assert_allclose(vectors, model.encode(texts, **expected), rtol=0, atol=BOUND)
    assert encoder.encode(texts[0]).shape == (100,)
    shutil.rmtree(tmp_path)  # two models of 90 MB
