"""bridge.py: a SentenceTransformer around our model gives our vectors, has our weights, and saves a
folder that both libraries open."""

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minibert import InputError, SentenceEncoder, precision
from minibert.after import AfterPooling, Dense
from minibert.heads import POOLINGS
from tests.test_encoder import LIMIT, TEXTS, D, small_encoder

peers = pytest.importorskip("sentence_transformers")
VERSION = int(peers.__version__.partition(".")[0])
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minibert.tokens.TruncationWarning"),
]

SETTINGS: dict[str, Any] = {
    "prompts": {"query": "hello ", "topic": "a b "},
    "default_prompt_name": "topic",
    "similarity": "dot",
    "truncate_dim": 7,
}


def near(found: Any, expected: Any) -> bool:
    difference = np.abs(np.asarray(found) - np.asarray(expected)).max(initial=0)
    return found.shape == expected.shape and difference <= 1e-6 * np.abs(expected).max(initial=1)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_vectors_are_ours(
    pooling: str, include_prompt: bool, normalize: bool, tmp_path: Path
) -> None:
    if VERSION < 6 and pooling == "cls" and not include_prompt:
        pytest.skip("version 5 takes [CLS], though it comes before the prompt")
    if pooling == "weightedmean" and not include_prompt:
        pytest.skip("refused by EncoderSettings")
    ours = small_encoder(
        tmp_path, pooling=pooling, include_prompt=include_prompt, normalize=normalize, **SETTINGS
    )
    theirs = ours.to_sentence_transformers()
    assert isinstance(theirs, peers.SentenceTransformer)
    assert near(theirs.encode(TEXTS), ours.encode(TEXTS))
    assert near(theirs.encode(TEXTS[0]), ours.encode(TEXTS[0]))
    assert near(theirs.encode_query(TEXTS), ours.encode_query(TEXTS))
    assert theirs.similarity_fn_name == "dot"


@pytest.mark.parametrize("normalize", [True, False])
def test_both_libraries_open_what_it_saves(normalize: bool, tmp_path: Path) -> None:
    ours = small_encoder(tmp_path, normalize=normalize, max_length=9, **SETTINGS)
    theirs = ours.to_sentence_transformers()
    theirs.save_pretrained(str(tmp_path / "saved"))
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    dim = SETTINGS["truncate_dim"]  # version 5 does not save it
    assert near(again.encode(TEXTS, truncate_dim=dim), ours.encode(TEXTS))
    assert dict(again.settings.prompts) | {"document": ""} == theirs.prompts
    assert again.settings.similarity == "dot"
    opened = peers.SentenceTransformer(str(tmp_path / "saved"))
    assert opened.max_seq_length == 9
    assert near(opened.encode(TEXTS, truncate_dim=dim), ours.encode(TEXTS))


def with_layers(folder: Path, pooling: str) -> SentenceEncoder:
    """An encoder with layers after its pooling."""
    base, width = small_encoder(folder), D * len(pooling.split("+"))
    after = AfterPooling(Dense(width, 30, False, nn.GELU()), nn.LayerNorm(30))
    encoder = SentenceEncoder(
        base.bert, base.tokenizer, after=after, pooling=pooling, normalize=True
    )
    nn.init.normal_(after[1].weight)  # type: ignore[union-attr, arg-type]
    return encoder


@pytest.mark.parametrize("pooling", ["cls", "mean+max", "weightedmean+cls", "lasttoken+mean"])
def test_layers_after_the_pooling(pooling: str, tmp_path: Path) -> None:
    if VERSION < 6 and "+" in pooling:
        pytest.skip("version 5 has no tuples of poolings")
    ours = with_layers(tmp_path, pooling)
    theirs = ours.to_sentence_transformers()
    expected = ours.encode(TEXTS)
    assert near(theirs.encode(TEXTS), expected)
    assert ours.dim() == 30
    theirs.save_pretrained(str(tmp_path / "saved"))
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    assert again.settings.pooling == pooling
    assert np.array_equal(again.encode(TEXTS), expected)
    assert near(peers.SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), expected)
    with torch.no_grad():
        ours.after[0].linear.weight.neg_()  # type: ignore[union-attr, operator]
    assert not near(ours.encode(TEXTS), expected)
    assert near(theirs.encode(TEXTS), ours.encode(TEXTS))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_in_another_dtype_than_the_model_are_refused(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    ours = with_layers(tmp_path, "mean")
    ours.bert.to(dtype)
    with pytest.raises(InputError, match=f"has one dtype, and this model has {dtype} with layers"):
        ours.to_sentence_transformers()


def test_weights_in_half_precision_are_pooled_in_float32(tmp_path: Path) -> None:
    ours = small_encoder(tmp_path)
    ours.bert.to(torch.bfloat16)
    found = ours.to_sentence_transformers().encode(TEXTS)
    assert np.abs(found - ours.encode(TEXTS)).max() <= 0.05  # other kernels round otherwise
    assert not np.array_equal(found, torch.tensor(found).bfloat16().float().numpy())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"pooling": "max+mean"}, r"poolings joined in this way \(max\+mean\)"),
        ({"pooling": "cls", "include_prompt": False}, "pooling cls with include_prompt false"),
    ],
)
def test_what_version_5_computes_otherwise_is_refused(
    settings: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "__version__", "5.1.0")
    with pytest.raises(InputError, match=f"needs sentence-transformers 6 for {named}"):
        small_encoder(tmp_path, **settings).to_sentence_transformers()


def test_products_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)
    base = small_encoder(tmp_path)
    theirs, exact = (
        SentenceEncoder(base.bert, base.tokenizer, precision=word).to_sentence_transformers()
        for word in ("bfloat16", "float32")
    )
    found, expected = theirs.encode(TEXTS), exact.encode(TEXTS)
    assert found.dtype == np.float32
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    assert 0.99 < (cosines / np.linalg.norm(expected, axis=1)).min() < 1 - 1e-6


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    theirs = small_encoder(tmp_path).to_sentence_transformers()
    with pytest.raises(InputError, match=r"text number 0 .* is of type tuple"):
        theirs.tokenize([("a", "b")])


def test_it_shares_the_weights_and_nothing_else(tmp_path: Path) -> None:
    ours = small_encoder(tmp_path)
    theirs = ours.to_sentence_transformers()
    before = ours.encode(TEXTS)
    theirs.max_seq_length = 4
    assert ours.max_seq_length == LIMIT
    theirs.max_seq_length = LIMIT
    with torch.no_grad():
        ours.bert.embeddings.word.weight *= 3
    assert not near(ours.encode(TEXTS), before)
    assert near(theirs.encode(TEXTS), ours.encode(TEXTS))


def test_copies_and_pickles(tmp_path: Path) -> None:
    theirs = small_encoder(tmp_path).to_sentence_transformers()
    expected = theirs.encode(TEXTS)
    for twin in (copy.deepcopy(theirs), pickle.loads(pickle.dumps(theirs))):
        assert np.array_equal(twin.encode(TEXTS), expected)


def test_its_tokenizer_is_one_of_transformers(tmp_path: Path) -> None:
    """Other libraries count tokens with it."""
    ours = small_encoder(tmp_path)
    theirs = ours.to_sentence_transformers().tokenizer
    assert theirs(TEXTS[:4])["input_ids"] == [one.ids for one in ours.tokenizer.encode(TEXTS[:4])]
    assert (theirs.cls_token, theirs.sep_token, theirs.pad_token) == ("[CLS]", "[SEP]", "[PAD]")


def test_gradients_reach_our_weights(tmp_path: Path) -> None:
    """Those of a loss of their vectors are those of the same loss of the padded model."""
    ours = small_encoder(tmp_path)
    theirs = ours.to_sentence_transformers()
    theirs(theirs.tokenize(TEXTS[:4]))["sentence_embedding"].square().sum().backward()
    found = {name: weight.grad for name, weight in ours.bert.named_parameters()}
    ours.bert.zero_grad()
    tokens = ours.tokenizer.encode(TEXTS[:4])
    loss = torch.zeros(())
    for one in tokens:
        loss = loss + ours.bert(torch.tensor([one.ids]))[0].mean(0).square().sum()
    loss.backward()
    for name, weight in ours.bert.named_parameters():
        if weight.grad is None:
            assert found[name] is None  # the pooler
        else:
            assert torch.allclose(found[name], weight.grad, rtol=1e-4, atol=1e-4), name


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install 'sentence-transformers>=5'"):
        small_encoder(tmp_path).to_sentence_transformers()
