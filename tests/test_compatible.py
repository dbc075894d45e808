"""compatible.py: every name of sentence-transformers means here what it means there.

Evidence: both libraries open one folder, and both are called in the same words.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minibert import InputError, SentenceEncoder
from tests.test_encoder import LIMIT, TEXTS, D, small_encoder

peers = pytest.importorskip("sentence_transformers")
VERSION = int(peers.__version__.partition(".")[0])
pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = {"query": "hello ", "passage": "world ", "topic": "a b "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compatible")
    encoder = small_encoder(folder / "vocabulary", prompts=PROMPTS, pooling="mean")
    encoder.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def ours(folder: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return peers.SentenceTransformer(str(folder), device="cpu")


def same(found: Any, expected: Any, bound: float = 1e-6) -> bool:
    """Whether two results have the same type, shape, dtype and numbers, and lists the same items.

    bound: on the difference of two numbers, as a part of the largest one, if that is over 1."""
    if isinstance(expected, list):
        return (
            type(found) is list
            and len(found) == len(expected)
            and all(map(same, found, expected, [bound] * len(expected)))
        )
    if type(found) is not type(expected) or found.dtype != expected.dtype:
        return False
    if found.shape != expected.shape:
        return False
    a, b = (np.asarray(result, np.float64) for result in (found, expected))
    return bool(np.abs(a - b).max(initial=0) <= bound * np.abs(b).max(initial=1))


@pytest.mark.filterwarnings("ignore::minibert.tokens.TruncationWarning")
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[0], tuple(TEXTS), np.array(TEXTS)])
@pytest.mark.parametrize(
    "words",
    [
        {"batch_size": 2, "show_progress_bar": False},
        {"normalize_embeddings": True},
        {"normalize_embeddings": False, "convert_to_numpy": True, "device": "cpu"},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"convert_to_numpy": False, "convert_to_tensor": True},
        {"output_value": "token_embeddings"},
        {"output_value": "token_embeddings", "prompt_name": "topic", "truncate_dim": 5},
        {"prompt_name": "query"},
        {"prompt_name": "document"},
        {"prompt": "b ", "truncate_dim": 5},
        {"normalize_embeddings": True, "truncate_dim": 5},
        {"precision": "binary"},
        {"precision": "ubinary", "convert_to_tensor": True},
        {"precision": "ubinary", "convert_to_numpy": False},
    ],
    ids=str,
)
def test_the_same_words_give_the_same_result(
    texts: Any, words: dict[str, Any], ours: SentenceEncoder, theirs: Any
) -> None:
    """Vectors within 1e-6; hidden states within 1e-5, as of transformers' own. A number within
    rounding of 0 could become either bit, but none is."""
    bound = 1e-5 if "output_value" in words else 1e-6
    assert same(ours.encode(texts, **words), theirs.encode(texts, **words), bound)


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
@pytest.mark.parametrize("words", [{}, {"prompt_name": "topic"}, {"prompt": "b "}, {"prompt": ""}])
def test_queries_and_documents_have_their_prompts(
    method: str, words: dict[str, Any], ours: SentenceEncoder, theirs: Any
) -> None:
    texts = TEXTS[:4]
    assert same(getattr(ours, method)(texts, **words), getattr(theirs, method)(texts, **words))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_eight_bits_have_the_ranges_of_the_call(
    precision: Any, ours: SentenceEncoder, theirs: Any
) -> None:
    """A number within rounding of a step may be on its other side."""
    if VERSION < 6 and precision == "int8":
        pytest.skip("version 5 rounds numbers below 0 up")
    texts = [f"{text} {other}" for text in ["a", "b", "c", "d", "e"] for other in TEXTS[:4]]
    found, expected = (e.encode(texts, precision=precision) for e in (ours, theirs))
    assert found.dtype == expected.dtype
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert (found != expected).mean() < 0.01
    with pytest.raises(InputError, match=f"{precision} takes its ranges from the vectors"):
        ours.encode("a", precision=precision)


def test_the_texts_may_be_named(ours: SentenceEncoder) -> None:
    expected = ours.encode(TEXTS[:2])
    assert np.array_equal(ours.encode(sentences=TEXTS[:2]), expected)
    assert np.array_equal(ours.encode(inputs=TEXTS[:2]), expected)
    with pytest.raises(InputError, match="texts must be a list of str, or one str, not NoneType"):
        ours.encode()


@pytest.mark.parametrize(
    "words",
    [
        {"normalize": True, "normalize_embeddings": True},
        {"normalize": False, "normalize_embeddings": False},
        {"batch_tokens": 1024, "batch_size": 32},
        {"progress": True, "show_progress_bar": False},
        {"texts": ["a"], "sentences": ["a"]},
    ],
    ids=lambda words: " ".join(words),
)
def test_two_words_for_one_thing_are_an_error(words: dict[str, Any], ours: SentenceEncoder) -> None:
    words = {"texts": TEXTS, **words}
    with pytest.raises(InputError, match="mean the same: give one of them"):
        ours.encode(**words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"precision": "int4"}, "the kind of vectors 'int4' is not one of float32, int8"),
        (
            {"precision": "bfloat16"},
            "'bfloat16' is one of the model's products, an argument of from",
        ),
        ({"batch_size": "8"}, "batch_size must be at least 1, not '8'"),
        ({"truncate_dim": 5.0}, "truncate_dim must be from 1 to .* not 5.0"),
        ({"prompt": 3}, "^the prompt is of type int, not str: 3$"),
        ({"output_value": "tokens"}, "output_value is .* not 'tokens'"),
        (
            {"output_value": "token_embeddings", "precision": "binary"},
            ".* not .* in 'binary'",
        ),
        ({"prompt_name": "q"}, "no prompt 'q'"),
    ],
)
def test_what_there_is_none_of(words: Any, message: str, ours: SentenceEncoder) -> None:
    with pytest.raises(InputError, match=message):
        ours.encode(TEXTS, **words)


def test_a_batch_of_texts_is_a_budget_of_tokens(
    ours: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their default is our default, and twice as many texts are twice as many tokens."""
    budgets = []
    stream = ours._stream

    def note(texts: Any, call: Any, **more: Any) -> Any:
        budgets.append(call.batch_tokens)
        return stream(texts, call, **more)

    monkeypatch.setattr(ours, "_stream", note)
    for batch_size in (None, 32, 64, 1):
        ours.encode(["a"], batch_size=batch_size)
    assert budgets == [1024, 1024, 2048, 32]


def test_encoding_is_without_dropout_whatever_the_models_mode(ours: SentenceEncoder) -> None:
    expected = ours.encode(TEXTS[:4])
    (states,) = ours.encode(TEXTS[:1], output_value="token_embeddings")
    assert ours.bert.train().training
    assert np.abs(ours.encode(TEXTS[:4]) - expected).max() < 1e-6
    assert torch.equal(ours.encode(TEXTS[:1], output_value="token_embeddings")[0], states)
    assert all(part.training for part in ours.bert.modules())


# Comparing


@pytest.mark.parametrize("name", [None, "cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("kind", ["numpy", "tensor", "lists", "single", "one and many"])
def test_similarity(name: str | None, kind: str, folder: Path, tmp_path: Path) -> None:
    if VERSION < 6 and kind not in ("numpy", "tensor"):
        pytest.skip("version 5 takes (n, D) only")
    ours = small_encoder(tmp_path / "vocabulary", similarity=name or "cosine")
    ours.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config_sentence_transformers.json"
    if name is None:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"similarity_fn_name": None}))
    ours = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu")
    theirs = peers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    a, b = torch.randn(2, 5, D)
    pairs: dict[str, tuple[Any, Any]] = {
        "numpy": (a.numpy(), b.numpy()),
        "tensor": (a, b),
        "lists": (list(a), list(b.numpy())),
        "single": (a[0], b[0]),
        "one and many": (a[0], b),
    }
    first, second = pairs[kind]
    assert same(ours.similarity(first, second), theirs.similarity(first, second), 1e-5)
    found = ours.similarity_pairwise(first, second)
    assert same(found, theirs.similarity_pairwise(first, second), 1e-5)


def test_an_unknown_similarity_is_named(folder: Path, tmp_path: Path) -> None:
    small_encoder(tmp_path / "vocabulary").save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config_sentence_transformers.json"
    file.write_text(json.dumps({"similarity_fn_name": "maxsim"}))
    with pytest.raises(InputError, match=r"transformers\.json: similarity_fn_name 'maxsim' is not"):
        SentenceEncoder.from_pretrained(tmp_path / "model")


# What an encoder says of itself


def test_limit_size_and_device(ours: SentenceEncoder, theirs: Any) -> None:
    assert ours.max_seq_length == theirs.max_seq_length == LIMIT
    assert ours.get_embedding_dimension() == ours.get_sentence_embedding_dimension() == D
    assert ours.device == theirs.device == torch.device("cpu")


@pytest.mark.filterwarnings("ignore::minibert.tokens.TruncationWarning")
def test_the_limit_can_be_set(ours: SentenceEncoder, folder: Path) -> None:
    theirs = peers.SentenceTransformer(str(folder), device="cpu")
    ours.max_seq_length = theirs.max_seq_length = 5
    assert same(ours.encode(TEXTS), theirs.encode(TEXTS))
    for wrong in (0, LIMIT + 1, None, "9", 9.5):
        with pytest.raises(InputError, match=f"max_seq_length must be from 1 to {LIMIT} tokens"):
            ours.max_seq_length = wrong  # type: ignore[assignment]


def test_moving_keeps_the_fast_copy_of_a_model_that_nobody_else_has(ours: SentenceEncoder) -> None:
    """On "meta", where tensors have no data, the move shows without another device."""
    expected = ours.encode(TEXTS[:4])
    assert ours.to("cpu") is ours
    assert ours._fast is not None
    assert np.array_equal(ours.encode(TEXTS[:4]), expected)
    assert ours.to("meta").device == torch.device("meta")


# What is no list of texts


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"a": "text"}, r"not dict: pass its values: list\(texts\.values\(\)\)"),
        ({"text"}, "not set: it has no order"),
        (frozenset({"text"}), "not frozenset: it has no order"),
        (b"text", r"not bytes: decode it"),
        (np.array("text"), "not ndarray: an array must have one dimension"),
        (np.array([["a", "b"]]), "not ndarray: an array must have one dimension"),
        (3, "not int: wrap what you have in a list"),
    ],
    ids=repr,
)
def test_what_to_pass_instead(wrong: Any, message: str, ours: SentenceEncoder) -> None:
    with pytest.raises(InputError, match=f"texts must be a list of str, or one str, {message}"):
        ours.encode(wrong)


def test_pandas(ours: SentenceEncoder) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.DataFrame({"text": TEXTS[:4], "label": range(4)}, index=[7, 5, 3, 1])
    assert np.array_equal(ours.encode(table["text"]), ours.encode(TEXTS[:4]))
    with pytest.raises(InputError, match=r"not DataFrame: .* pass one column: table\['text'\]"):
        ours.encode(table)
