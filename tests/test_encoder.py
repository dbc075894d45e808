"""encoder.py: the vectors come in the caller's order, whatever the batches; and a folder of
sentence-transformers is read as its files say."""

import io
import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import yaml
from torch import nn

import minibert
from minibert import Bert, BertConfig, InputError, SentenceEncoder
from minibert.formats.sentence_transformers import (
    EncoderSettings,
    read_encoder_folder,
    read_pooling,
)
from minibert.tokenizer import Tokenizer
from minibert.tokens import TruncationWarning
from tests.test_tokenizer import CASED, UNCASED, write_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

PACKAGE = Path(minibert.__file__).parent
D = 24
LIMIT = 40  # positions of the small model
TEXTS = [
    "hello world",
    "a",
    "",
    "b c d e f g",
    "helloing, world.",
    "a",
    "z " * 30,
    "hello world hello world",
]


def small_encoder(folder: Path, tokens: list[str] = UNCASED, **options: Any) -> SentenceEncoder:
    """An encoder with random weights. Its vocabulary is written to `folder`."""
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=LIMIT,
        initializer_range=0.3,  # so that different texts have different vectors
    )
    torch.manual_seed(0)
    return SentenceEncoder(
        Bert(config).eval(), Tokenizer.from_folder(write_vocabulary(folder, tokens)), **options
    )


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return small_encoder(tmp_path / "vocabulary")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    small_encoder(folder / "vocabulary", normalize=True).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def saved(pristine: Path, tmp_path: Path) -> Path:
    """A sentence-transformers folder: mean pooling, then normalisation. A test may change it."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def close(a: np.ndarray, b: np.ndarray, bound: float = 1e-6) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype == np.float32
        and np.abs(a - b).max(initial=0) <= bound
    )


# Vectors


def test_vectors_come_in_the_order_of_the_texts(encoder: SentenceEncoder) -> None:
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    assert np.abs(alone[0] - alone[3]).max() > 0.1  # or the order would not show
    assert close(encoder.encode(TEXTS), alone)
    assert close(encoder.encode(TEXTS[::-1]), alone[::-1])


def test_a_clock_may_stand_still(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 7.0)
    assert encoder.encode(TEXTS, progress=True).shape == (len(TEXTS), D)


@pytest.mark.parametrize("batch_tokens", [1, 2, 7, 50, 10**9])
def test_the_token_budget_changes_no_vector(batch_tokens: int, encoder: SentenceEncoder) -> None:
    wanted = np.stack([encoder.encode(text) for text in TEXTS])
    assert close(encoder.encode(TEXTS, batch_tokens=batch_tokens), wanted)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_vector_is_the_pooled_hidden_state(pooling: str, normalize: bool, tmp_path: Path) -> None:
    """The hidden state of the plain model, in float64: other kernels give other roundings."""
    encoder = small_encoder(tmp_path, pooling=pooling, normalize=normalize)
    encoder.bert.double()
    for text in TEXTS:
        (tokens,) = encoder.tokenizer.encode([text])
        with torch.inference_mode():
            hidden = encoder.bert(torch.tensor([tokens.ids]))[0].numpy()
        vector = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0)}[pooling]
        wanted = (vector / np.linalg.norm(vector) if normalize else vector).astype(np.float32)
        assert close(encoder.encode(text), wanted)
        assert close(encoder.encode([text])[0], wanted)


@pytest.mark.parametrize("files_say", [False, True])
def test_normalize(files_say: bool, tmp_path: Path) -> None:
    encoder = small_encoder(tmp_path, normalize=files_say)
    plain, scaled = (encoder.encode(TEXTS, normalize=normalize) for normalize in (False, True))
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    assert close(scaled, plain / lengths)
    assert np.array_equal(encoder.encode(TEXTS), scaled if files_say else plain)
    assert np.array_equal(
        encoder.encode(TEXTS[0], normalize=True), encoder.encode(TEXTS[:1], normalize=True)[0]
    )


def test_nothing_gives_no_rows(encoder: SentenceEncoder) -> None:
    for nothing in ([], (), iter([])):
        vectors = encoder.encode(nothing)
        assert (vectors.shape, vectors.dtype) == ((0, D), np.float32)


def test_the_empty_text_has_a_vector(encoder: SentenceEncoder) -> None:
    assert encoder.encode("").shape == (D,)
    assert np.isfinite(encoder.encode("")).all()
    assert close(encoder.encode([" \n", "\u200d", "\ufffd"]), np.stack([encoder.encode("")] * 3))


def test_any_iterable_of_texts(encoder: SentenceEncoder) -> None:
    wanted = encoder.encode(TEXTS)

    def generated() -> Iterator[str]:
        yield from TEXTS

    for texts in (generated(), tuple(TEXTS), np.array(TEXTS)):
        assert np.array_equal(encoder.encode(texts), wanted)


def test_equal_texts_have_equal_vectors(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(["a b", "hello", "a b", "a b"])
    assert close(vectors[[2, 3]], vectors[[0, 0]])
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1


def test_a_long_text_without_a_space_is_one_unknown_word(encoder: SentenceEncoder) -> None:
    assert close(encoder.encode("a" * 10_000), encoder.encode("[UNK]"))


def test_a_long_text_is_its_beginning_and_says_so(encoder: SentenceEncoder) -> None:
    text = "b c d. " * 1_500  # 10,500 characters
    with pytest.warns(
        TruncationWarning, match=f"1 of 3 texts are longer than {LIMIT} tokens: .* with 6002; 5962 "
    ):
        vectors = encoder.encode(["a", text, ""])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(encoder.encode(["a", text, ""], truncation="silent"), vectors)
        assert close(vectors[1], encoder.encode(("b c d. " * 10)[: (LIMIT - 2) * 2 - 9]))
    with pytest.raises(InputError, match="1 of 3 texts"):
        encoder.encode(["a", text, ""], truncation="error")
    with pytest.raises(InputError, match="1 of 1 texts"):
        encoder.encode(text, truncation="error")


@pytest.mark.parametrize(
    "wrong", [None, 3, b"bytes", ["nested"], float("nan"), "half \ud800"], ids=repr
)
def test_what_is_no_text_is_named_by_its_number(wrong: Any, encoder: SentenceEncoder) -> None:
    with pytest.raises(InputError, match=r"text number 2 \(counted from 0\) "):
        encoder.encode(["a", "b", wrong, "c"])


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", object])
def test_what_is_no_list_of_texts_is_named(wrong: Any, encoder: SentenceEncoder) -> None:
    with pytest.raises(
        InputError, match=f"texts must be a list of str, or one str, not {type(wrong).__name__}"
    ):
        encoder.encode(wrong)


@pytest.mark.parametrize("texts", ["a", ["a"], []])
@pytest.mark.parametrize("batch_tokens", [0, -1, 1.5, "32"])
def test_a_budget_for_no_token_is_an_error(
    texts: Any, batch_tokens: Any, encoder: SentenceEncoder
) -> None:
    with pytest.raises(InputError, match=f"batch_tokens must be at least 1, not {batch_tokens!r}"):
        encoder.encode(texts, batch_tokens=batch_tokens)


def test_a_text_passes_at_most_43_functions_on_its_way_to_a_vector(minilm: Path) -> None:
    """In the first call, so that no cache hides one. Parts of a function, such as a comprehension,
    count with it. Five are those of products with arranged weights. A dozen read and check what a
    caller or a model's files may say, and two turn what the tokenizers library raises into an
    InputError."""
    encoder, passed = SentenceEncoder.from_pretrained(minilm, device="cpu"), set()

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if Path(code.co_filename).is_relative_to(PACKAGE) and not code.co_name.startswith("<"):
            passed.add((code.co_filename, code.co_qualname))

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        encoder.encode("The cat sits on the mat.")
    finally:
        sys.settrace(before)
    assert any(name == "Attention.forward" for _, name in passed)
    assert len(passed) <= 43, sorted(passed)


def test_progress_is_quiet_where_there_is_no_terminal(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, progress, shown in (
        (io.StringIO(), True, False),
        (io.StringIO(), False, False),
        (Terminal(), False, False),
        (Terminal(), True, True),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        encoder.encode(TEXTS, progress=progress)
        assert (stream.getvalue() != "") is shown
        assert not shown or f"{len(TEXTS)}/{len(TEXTS)}" in stream.getvalue()


# The constructor


def test_the_constructor_changes_nothing_that_it_is_given(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_vocabulary(tmp_path, UNCASED))
    tokenizer.max_length = 35
    bert = small_encoder(tmp_path).bert
    settings = EncoderSettings(max_length=30, prompts={"q": "a "})
    encoder = SentenceEncoder(bert, tokenizer, settings, max_length=16, pooling="cls")
    assert tokenizer.max_length == 35
    assert settings == EncoderSettings(max_length=30, prompts={"q": "a "})
    assert encoder.settings == EncoderSettings("cls", max_length=16, prompts={"q": "a "})
    assert encoder.tokenizer.max_length == 16
    assert encoder.bert is bert
    assert SentenceEncoder(bert, tokenizer).tokenizer.max_length == 35
    assert SentenceEncoder(bert, tokenizer, max_length=100).tokenizer.max_length == 35
    tokenizer.max_length = None
    assert SentenceEncoder(bert, tokenizer).tokenizer.max_length == LIMIT


def test_the_limit_is_sentence_transformers_or_else_the_tokenizers(saved: Path) -> None:
    def limit(tokenizer: int | None, sentence_bert: int | None, asked: int | None) -> int | None:
        write(saved / "tokenizer_config.json", {"model_max_length": tokenizer})
        write(saved / "sentence_bert_config.json", {"max_seq_length": sentence_bert})
        return SentenceEncoder.from_pretrained(saved, max_length=asked).tokenizer.max_length

    assert limit(None, None, None) == LIMIT
    assert limit(10**30, 512, 512) == LIMIT
    assert limit(30, 512, None) == LIMIT  # sentence_bert_config.json comes first
    assert limit(30, None, None) == 30
    assert limit(30, 20, None) == 20
    assert limit(30, 20, 10) == 10
    assert limit(15, 20, 18) == 18
    assert limit(30, 20, 25) == 25  # asked for in place of what sentence_bert_config.json says
    encoder = SentenceEncoder.from_pretrained(saved, max_length=3)
    assert close(encoder.encode("a b c", truncation="silent"), encoder.encode("a"))


@pytest.mark.parametrize("asked", [0, -1])
def test_a_limit_of_nothing_is_an_error(asked: int, saved: Path) -> None:
    with pytest.raises(
        InputError, match=f"max_length must be a positive number of tokens, not {asked}"
    ):
        SentenceEncoder.from_pretrained(saved, max_length=asked)


def test_an_unknown_pooling_is_an_error(saved: Path) -> None:
    with pytest.raises(InputError, match="pooling 'sum' is not one of cls, max, mean, "):
        SentenceEncoder.from_pretrained(saved, pooling="sum")


def test_pooling_may_be_asked_for_in_place_of_the_files(saved: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(saved, pooling="max")
    assert (encoder.settings.pooling, encoder.settings.normalize) == ("max", True)


def test_half_precision_weights_give_float32_vectors(saved: Path) -> None:
    wanted = SentenceEncoder.from_pretrained(saved).encode(TEXTS)
    encoder = SentenceEncoder.from_pretrained(saved, dtype=torch.bfloat16)
    vectors = encoder.encode(TEXTS)
    assert encoder.bert.embeddings.word.weight.dtype == torch.bfloat16
    assert vectors.dtype == np.float32
    assert ((vectors * wanted).sum(1) > 0.99).all()


def test_states_of_zeros_are_vectors_of_zeros_in_half_precision(tmp_path: Path) -> None:
    """float16 has no number as small as the bound that normalisation divides by at least."""
    encoder = small_encoder(tmp_path, normalize=True)
    nn.init.zeros_(encoder.bert.layers[-1].feed_forward_norm.weight)  # type: ignore[union-attr, arg-type]
    encoder.bert.half()
    assert np.array_equal(encoder.encode(TEXTS), np.zeros((len(TEXTS), D), np.float32))


# modules.json


def modules(*kinds: str) -> list[dict[str, Any]]:
    return [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind.rpartition('.')[2]}" if i else "",
            "type": kind,
        }
        for i, kind in enumerate(kinds)
    ]


OLD = "sentence_transformers.models."
NEW = "sentence_transformers.base.modules."


@pytest.mark.parametrize(
    ("kinds", "normalize"),
    [
        ([f"{OLD}Transformer", f"{OLD}Pooling"], False),
        ([f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Normalize"], True),
        (
            [
                f"{NEW}transformer.Transformer",
                "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
                f"{NEW}normalize.Normalize",
            ],
            True,
        ),
    ],
)
def test_the_modules_that_are_read(kinds: list[str], normalize: bool, saved: Path) -> None:
    write(saved / "modules.json", modules(*kinds))
    read = read_encoder_folder(saved)
    assert read.transformer == saved
    assert (read.settings.pooling, read.settings.normalize) == ("mean", normalize)
    assert read.settings.max_length == LIMIT
    assert SentenceEncoder.from_pretrained(saved).settings.normalize is normalize


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        ([f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Normalize", f"{OLD}Dense"], "Dense"),
        ([f"{OLD}Transformer", f"{OLD}Dense", f"{OLD}Pooling"], "Dense"),
        ([f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Dropout"], "Dropout"),
        ([f"{OLD}Transformer", f"{OLD}WeightedLayerPooling"], "WeightedLayerPooling"),
        (
            [f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Normalize", f"{OLD}Normalize"],
            "Normalize, Normalize",
        ),
        ([f"{OLD}Pooling", f"{OLD}Transformer"], "Pooling, Transformer"),
        ([f"{OLD}CLIPModel"], "CLIPModel"),
        ([f"{OLD}Transformer", "another_package.Pooling"], "another_package.Pooling"),
        (["custom_st.Transformer", f"{OLD}Pooling"], "custom_st.Transformer"),
        ([], ""),
    ],
)
def test_other_modules_are_refused_by_name(kinds: list[str], named: str, saved: Path) -> None:
    write(saved / "modules.json", modules(*kinds))
    with pytest.raises(
        InputError, match=rf"modules\.json: the modules are .*{re.escape(named)}.*; read here: "
    ):
        SentenceEncoder.from_pretrained(saved)


def test_a_cross_encoder_is_told_how_to_open(saved: Path) -> None:
    write(saved / "modules.json", modules(f"{OLD}Transformer"))
    with pytest.raises(InputError, match=f"python -m train.predict --model {saved}$"):
        SentenceEncoder.from_pretrained(saved)


@pytest.mark.parametrize(
    "content", [{}, 3, None, ["Transformer"], [{"type": f"{OLD}Transformer"}], [{"path": ""}], [[]]]
)
def test_a_modules_json_of_another_shape(content: Any, saved: Path) -> None:
    write(saved / "modules.json", content)
    with pytest.raises(
        InputError, match=r"modules\.json: must be a list of objects with a path and a type"
    ):
        read_encoder_folder(saved)


def test_a_modules_json_that_is_no_json(saved: Path) -> None:
    (saved / "modules.json").write_text("[")
    with pytest.raises(InputError, match=r"modules\.json, line 1: not JSON"):
        read_encoder_folder(saved)


@pytest.mark.parametrize("path", ["..", "../outside", "/etc", "1_Pooling/../../outside", "a\0b"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_path_out_of_the_folder_is_refused(number: int, path: str, saved: Path) -> None:
    shutil.copytree(saved, saved.parent / "outside")
    content = json.loads((saved / "modules.json").read_text())
    content[number]["path"] = path
    write(saved / "modules.json", content)
    with pytest.raises(
        InputError,
        match=rf"modules\.json: the path {re.escape(repr(path))} leads out of the folder",
    ):
        SentenceEncoder.from_pretrained(saved)


def test_the_encoder_may_have_a_folder_of_its_own(saved: Path) -> None:
    wanted = SentenceEncoder.from_pretrained(saved).encode(TEXTS)
    inner = saved / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"):
        (saved / name).rename(inner / name)
    content = json.loads((saved / "modules.json").read_text())
    content[0]["path"] = "0_Transformer"
    write(saved / "modules.json", content)
    assert np.array_equal(SentenceEncoder.from_pretrained(saved).encode(TEXTS), wanted)


def test_a_plain_bert_is_pooled_by_the_mean_and_not_scaled(saved: Path) -> None:
    (saved / "modules.json").unlink()
    shutil.rmtree(saved / "1_Pooling")
    encoder = SentenceEncoder.from_pretrained(saved)
    read = encoder.settings
    assert (read.pooling, read.normalize) == ("mean", False)
    assert encoder.tokenizer.max_length == LIMIT


# 1_Pooling/config.json and the other files


def flags(*modes: str) -> dict[str, Any]:
    known = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    return {"word_embedding_dimension": D} | {
        f"pooling_mode_{mode}": mode in modes for mode in (*known, *modes)
    }


@pytest.mark.parametrize(
    ("content", "pooling"),
    [
        (flags("mean_tokens"), "mean"),
        (flags("cls_token"), "cls"),
        (flags("max_tokens"), "max"),
        ({"word_embedding_dimension": D, "pooling_mode_cls_token": True}, "cls"),
        ({"embedding_dimension": D, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["max"]}, "max"),
        (flags("mean_sqrt_len_tokens"), "mean_sqrt_len_tokens"),
        (flags("weightedmean_tokens"), "weightedmean"),
        (flags("lasttoken"), "lasttoken"),
        (flags("max_tokens", "mean_tokens", "cls_token"), "cls+max+mean"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len_tokens"),
        ({"pooling_mode": ["mean", "cls"]}, "mean+cls"),
    ],
)
def test_the_poolings_that_are_read(content: Any, pooling: str, saved: Path) -> None:
    write(saved / "1_Pooling" / "config.json", content)
    assert SentenceEncoder.from_pretrained(saved).settings.pooling == pooling


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (flags("mean_tokens", "new_tokens"), "mean and pooling_mode_new_tokens"),
        (flags(), "nothing"),
        ({}, "nothing"),
        ({"pooling_mode": ["mean", "median"]}, "mean and median"),
        ({"pooling_mode": []}, "nothing"),
        ({"pooling_mode": None}, "None"),
        ({"pooling_mode": {}}, "{}"),
        ({"pooling_mode": [[]]}, "[]"),
    ],
)
def test_other_poolings_are_refused_by_name(content: Any, named: str, saved: Path) -> None:
    file = saved / "1_Pooling" / "config.json"
    write(file, content)
    message = re.escape(f"{file}: pooling by {named}; read here: cls, max, mean, ")
    with pytest.raises(InputError, match=message):
        read_pooling(file)
    with pytest.raises(InputError, match=message):
        SentenceEncoder.from_pretrained(saved)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "damage", [remove, lambda file: file.write_bytes(b"[]"), lambda file: file.write_bytes(b"\xff")]
)
def test_a_damaged_file_is_named(name: str, damage: Callable[[Path], Any], saved: Path) -> None:
    damage(saved / name)
    with pytest.raises(InputError, match=name.rpartition("/")[2].replace(".", r"\.")):
        SentenceEncoder.from_pretrained(saved)


@pytest.mark.parametrize("content", [None, {}, {"max_seq_length": None}])
def test_without_a_limit_in_sentence_bert_config_the_others_hold(content: Any, saved: Path) -> None:
    (saved / "sentence_bert_config.json").unlink()
    if content is not None:
        write(saved / "sentence_bert_config.json", content)
    write(saved / "tokenizer_config.json", {"model_max_length": 25})
    assert read_encoder_folder(saved).settings.max_length is None
    assert SentenceEncoder.from_pretrained(saved).tokenizer.max_length == 25


@pytest.mark.parametrize("value", [0, -1, "256", True, 1.5, []])
def test_an_absurd_limit_in_sentence_bert_config_is_named(value: Any, saved: Path) -> None:
    write(saved / "sentence_bert_config.json", {"max_seq_length": value})
    message = f"json: max_seq_length must be a positive whole number, not {value!r}"
    with pytest.raises(InputError, match=f"sentence_bert_config.{re.escape(message)}"):
        SentenceEncoder.from_pretrained(saved)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "config_sentence_transformers.json"])
def test_settings_that_are_no_object_are_named(name: str, saved: Path) -> None:
    write(saved / name, [])
    with pytest.raises(InputError, match=f"{name.replace('.', '[.]')}: must hold a JSON object"):
        SentenceEncoder.from_pretrained(saved)


# Prompts and fewer numbers


def test_a_prompt_is_put_before_each_text(saved: Path) -> None:
    file = saved / "config_sentence_transformers.json"
    write(file, {"prompts": {"query": "hello ", "nothing": None}, "default_prompt_name": None})
    encoder = SentenceEncoder.from_pretrained(saved)
    plain, asked = (
        encoder.encode(TEXTS, truncation="silent"),
        encoder.encode(["hello " + text for text in TEXTS]),
    )
    assert not close(plain, asked, 0.01)
    assert np.array_equal(encoder.encode(TEXTS, prompt="hello "), asked)
    assert np.array_equal(encoder.encode(TEXTS, prompt_name="query"), asked)
    assert np.array_equal(encoder.encode(TEXTS, prompt_name="nothing"), plain)
    assert np.array_equal(
        encoder.encode(TEXTS[0], prompt_name="query"), encoder.encode("hello " + TEXTS[0])
    )
    with pytest.raises(InputError, match="not both"):
        encoder.encode(TEXTS, prompt="", prompt_name="query")
    with pytest.raises(InputError, match="no prompt 'passage': its prompts are query, nothing"):
        encoder.encode(TEXTS, prompt_name="passage")

    write(file, {"prompts": {"query": "hello "}, "default_prompt_name": "query"})
    encoder = SentenceEncoder.from_pretrained(saved)
    assert np.array_equal(encoder.encode(TEXTS), asked)
    assert np.array_equal(encoder.encode(TEXTS, prompt=""), plain)


def test_tokens_of_a_prompt_that_is_not_pooled(tmp_path: Path) -> None:
    """The text's tokens attend to [CLS] and the prompt's, but the mean leaves these out."""
    encoder = small_encoder(tmp_path, include_prompt=False)
    (tokens,) = encoder.tokenizer.encode(["hello world a b"])
    with torch.inference_mode():
        hidden = encoder.bert(torch.tensor([tokens.ids]))[0].numpy()
    assert close(encoder.encode(["a b", "c"], prompt="hello world ")[0], hidden[3:].mean(0))
    assert close(encoder.encode("hello world a b"), hidden.mean(0))
    with pytest.raises(InputError, match="have become one word: let the prompt end with a space"):
        encoder.encode(["a", "o"], prompt="hell")


@pytest.mark.parametrize("dim", [1, 10, D])
def test_truncate_dim_keeps_the_first_numbers(dim: int, saved: Path) -> None:
    whole = SentenceEncoder.from_pretrained(saved).encode(TEXTS)
    kept = SentenceEncoder.from_pretrained(saved, truncate_dim=dim).encode(TEXTS)
    assert np.array_equal(kept, whole[:, :dim])  # scaled before, as the files say
    write(saved / "config_sentence_transformers.json", {"truncate_dim": dim})
    encoder = SentenceEncoder.from_pretrained(saved)
    assert np.array_equal(encoder.encode(TEXTS), kept)
    assert np.array_equal(encoder.encode(TEXTS, truncate_dim=D), whole)
    scaled = encoder.encode(TEXTS, normalize=True)
    assert close(scaled, kept / np.linalg.norm(kept, axis=1, keepdims=True))
    assert encoder.encode([], truncate_dim=1).shape == (0, 1)


@pytest.mark.parametrize("dim", [0, -1, D + 1])
def test_a_truncate_dim_that_no_vector_has(dim: int, encoder: SentenceEncoder) -> None:
    with pytest.raises(
        InputError,
        match=f"truncate_dim must be from 1 to {D}, the size of the model's vectors, not {dim}",
    ):
        encoder.encode("a", truncate_dim=dim)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (
            {"prompts": {"query": "query: "}, "default_prompt_name": "passage"},
            "default_prompt_name is 'passage'",
        ),
        (
            {"default_prompt_name": ["query"]},
            "default_prompt_name is .'query'., and the prompts are none",
        ),
        ({"prompts": ["query: "]}, "prompts must be an object of texts"),
        ({"prompts": {"query": 1}}, "prompts must be an object of texts"),
        ({"truncate_dim": 0}, "truncate_dim must be a positive whole number, not 0"),
        ({"truncate_dim": "128"}, "truncate_dim must be a positive whole number, not '128'"),
    ],
)
def test_prompts_that_cannot_be_read(content: Any, named: str, saved: Path) -> None:
    write(saved / "config_sentence_transformers.json", content)
    with pytest.raises(InputError, match=rf"config_sentence_transformers\.json: {named}"):
        SentenceEncoder.from_pretrained(saved)


def test_prompts_are_saved(tmp_path: Path) -> None:
    encoder = small_encoder(
        tmp_path / "v",
        prompts={"q": "hello "},
        default_prompt_name="q",
        include_prompt=False,
        truncate_dim=7,
    )
    encoder.save_pretrained(tmp_path / "model")
    again = SentenceEncoder.from_pretrained(tmp_path / "model")
    assert np.array_equal(again.encode(["a", "b c"]), encoder.encode(["a", "b c"]))


# Streams


def endless(read: list[int]) -> Iterator[str]:
    """Texts without end; `read` holds how many were taken."""
    while True:
        for text in TEXTS:
            read[0] += 1
            yield text


def test_a_stream_is_read_no_further_than_it_is_computed(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 200)
    wanted, read, seen = encoder.encode(TEXTS, truncation="silent"), [0], 0
    for (texts, vectors), _ in zip(
        encoder.stream(endless(read), truncation="silent"), range(5), strict=False
    ):
        assert seen + len(texts) == read[0]
        numbers = [(seen + i) % len(TEXTS) for i in range(len(texts))]
        assert texts == [TEXTS[i] for i in numbers]
        assert close(vectors, wanted[numbers])
        seen = read[0]
    assert seen > 5


def test_windows_change_no_vector_and_no_message(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "b c d. " * 20
    texts = ["a", long[:-21], "b", long, *TEXTS[:6], long]
    with pytest.warns(TruncationWarning, match=r"^3 of 11 texts .* number 3 .* with 82; ") as first:
        wanted = encoder.encode(texts)
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 30)
    with pytest.warns(TruncationWarning) as second:
        assert close(encoder.encode(texts), wanted)
    assert [str(w.message) for w in first] == [str(w.message) for w in second]
    with pytest.raises(InputError, match=r"number 7 \(counted from 0\)"):
        list(encoder.stream(["a", "b", 3], first=5))  # type: ignore[list-item]


def test_the_same_text_is_computed_once(encoder: SentenceEncoder) -> None:
    """A hook of the model holds while it encodes, and counts the sentences."""
    texts = ["a b", "hello", "a b", "A  B", "c"] * 3
    wanted = encoder.encode(["a b", "hello", "c"])[[0, 1, 0, 0, 2] * 3]
    computed: list[int] = []

    def count(bert: Bert, positional: Any, named: Any) -> None:
        computed.extend(named["layout"].lengths)

    encoder.bert.register_forward_pre_hook(count, with_kwargs=True)
    assert close(encoder.encode(texts), wanted, 0)  # bit for bit
    assert len(computed) == 3


def test_do_lower_case_of_sentence_bert_config(tmp_path: Path) -> None:
    small_encoder(tmp_path / "vocabulary", CASED).save_pretrained(tmp_path / "model")
    cased = SentenceEncoder.from_pretrained(tmp_path / "model")
    assert not close(cased.encode("Berlin H"), cased.encode("berlin h"), 1e-3)
    write(
        tmp_path / "model" / "sentence_bert_config.json",
        {"max_seq_length": 30, "do_lower_case": True},
    )
    lowered = SentenceEncoder.from_pretrained(tmp_path / "model")
    assert close(lowered.encode("Berlin H"), cased.encode("berlin h"))
    lowered.save_pretrained(tmp_path / "again")
    assert close(
        SentenceEncoder.from_pretrained(tmp_path / "again").encode("Berlin H"),
        cased.encode("berlin h"),
    )


# Saving


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_saved_gives_the_same_vectors(
    pooling: str, normalize: bool, tmp_path: Path
) -> None:
    encoder = small_encoder(tmp_path / "v", pooling=pooling, normalize=normalize, max_length=30)
    encoder.save_pretrained(tmp_path / "model")
    again = SentenceEncoder.from_pretrained(tmp_path / "model")
    read = again.settings
    assert (read.pooling, read.normalize, again.tokenizer.max_length) == (pooling, normalize, 30)
    texts = [*TEXTS, "b " * 50]
    assert np.array_equal(
        again.encode(texts, truncation="silent"), encoder.encode(texts, truncation="silent")
    )


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False), ("max", True)])
def test_sentence_transformers_and_we_open_what_the_other_saved(
    pooling: str, normalize: bool, tmp_path: Path
) -> None:
    peers = pytest.importorskip("sentence_transformers")
    encoder = small_encoder(
        tmp_path / "v", CASED, pooling=pooling, normalize=normalize, max_length=30
    )
    encoder.save_pretrained(tmp_path / "ours")
    texts = [*TEXTS, "Berlin \u00e9 H", "b " * 50]
    wanted = encoder.encode(texts, truncation="silent")
    theirs = peers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert close(theirs.encode(texts), wanted, 2e-6)
    theirs.save(str(tmp_path / "theirs"))
    again = SentenceEncoder.from_pretrained(tmp_path / "theirs")
    read = again.settings
    assert (read.pooling, read.normalize, again.tokenizer.max_length) == (pooling, normalize, 30)
    assert close(again.encode(texts, truncation="silent"), wanted)


def test_minilms_folder_says_mean_normalised_and_256(minilm: Path) -> None:
    read = read_encoder_folder(minilm)
    assert (read.transformer, read.lower_first) == (minilm, False)
    assert (read.settings.pooling, read.settings.normalize) == ("mean", True)
    assert read.settings.max_length == 256


def test_a_saved_folder_has_the_files_that_others_look_for(saved: Path) -> None:
    files = {str(file.relative_to(saved)) for file in saved.rglob("*") if file.is_file()}
    assert files == {
        *(
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "README.md",
        ),
        *(
            "modules.json",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
            "config_sentence_transformers.json",
        ),
    }


@pytest.mark.parametrize("vocabulary", [CASED, UNCASED])
def test_every_library_opens_what_is_saved(vocabulary: list[str], tmp_path: Path) -> None:
    """tokenizers, transformers and sentence-transformers, each from the folder alone: ids, then
    vectors within 2e-6."""
    peers, transformers = (
        pytest.importorskip("sentence_transformers"),
        pytest.importorskip("transformers"),
    )
    encoder = small_encoder(tmp_path / "v", vocabulary)
    folder = tmp_path / "model"
    encoder.save_pretrained(folder)
    texts = ["hello world", "a", "", "Berlin \u00e9 H", "helloing, [MASK] world."]
    ids = [tokens.ids for tokens in encoder.tokenizer.encode(texts)]
    assert [
        e.ids
        for e in tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    ] == ids
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer(texts)["input_ids"] == ids
    assert set(tokenizer.all_special_tokens) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    # from vocab.txt
    assert transformers.BertTokenizer.from_pretrained(folder)(texts)["input_ids"] == ids
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")

    wanted = encoder.encode(texts)
    assert close(peers.SentenceTransformer(str(folder), device="cpu").encode(texts), wanted, 2e-6)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = transformers.AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    assert close(((hidden * mask).sum(1) / mask.sum(1)).numpy(), wanted, 2e-6)


def test_the_model_card_says_what_the_encoder_is(tmp_path: Path) -> None:
    encoder = small_encoder(tmp_path / "v", pooling="cls", max_length=30)
    encoder.save_pretrained(
        tmp_path, facts={"base_model": "a/b"}, training="## Training\n\nNone.\n"
    )
    _, facts, text = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    head = yaml.safe_load(facts)
    assert (head["library_name"], head["pipeline_tag"]) == (
        "sentence-transformers",
        "sentence-similarity",
    )
    assert "sentence-transformers" in head["tags"]
    assert head["base_model"] == "a/b"
    for said in (
        "2 layers",
        "30 tokens",
        "24 numbers",
        "pooled by cls, not scaled",
        "\n## Training\n\nNone.\n",
    ):
        assert said in text
