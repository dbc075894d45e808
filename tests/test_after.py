"""after.py, formats/layers.py: layers after the pooling, and every pooling, compute what they do in
sentence-transformers, whichever of the two saved them.

Evidence: vectors within 1e-6 of their length, on checkpoints with random weights that
sentence-transformers saved; and what we save of them, opened by it again.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minibert import InputError, SentenceEncoder
from minibert.after import AfterPooling, Dense
from minibert.bulk import model_facts
from minibert.formats.sentence_transformers import EncoderSettings
from tests.test_encoder import TEXTS, D, small_encoder
from tests.test_weights import run_the_two_lines
from train.start import open_start

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# What stands after the pooling of each checkpoint: what a kind of layer is made with.
CHECKPOINTS: list[tuple[str | Sequence[str], list[tuple[str, dict[str, Any]]]]] = [
    *((mode, []) for mode in MODES),
    (("mean", "max"), []),
    (MODES, []),
    (("mean", "mean"), []),
    # as LaBSE
    ("cls", [("Dense", {"in_features": D, "out_features": D}), ("Normalize", {})]),
    (
        ("weightedmean", "cls"),
        [
            ("LayerNorm", {"dimension": 2 * D}),
            (
                "Dense",
                {
                    "in_features": 2 * D,
                    "out_features": 10,
                    "bias": False,
                    "activation_function": nn.GELU(),
                },
            ),
            (
                "Dense",
                {"in_features": 10, "out_features": 30, "activation_function": nn.Identity()},
            ),
            ("Normalize", {}),
        ],
    ),
]


def make(folder: Path, modes: str | Sequence[str], layers: Sequence[tuple[str, Any]]) -> Any:
    """A SentenceTransformer of sentence-transformers with random weights, saved to a folder."""
    peers = pytest.importorskip("sentence_transformers")
    small_encoder(folder / "v").save_pretrained(folder / "bert")
    with warnings.catch_warnings():  # of the module's older path, which all versions have
        warnings.simplefilter("ignore")
        from sentence_transformers import models
    pooling = models.Pooling(D, modes)
    after = [getattr(models, kind)(**options) for kind, options in layers]
    for module in after:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
    modules = [models.Transformer(str(folder / "bert")), pooling, *after]
    model = peers.SentenceTransformer(modules=modules, device="cpu")
    model.save(str(folder / "theirs"))
    return model


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.abs(found - wanted).max() <= 1e-6 * max(1, lengths.max())


@pytest.mark.parametrize(("modes", "layers"), CHECKPOINTS)
def test_sentence_transformers_computes_the_same_before_and_after(
    modes: str | Sequence[str], layers: list[tuple[str, Any]], tmp_path: Path
) -> None:
    peers = pytest.importorskip("sentence_transformers")
    theirs = make(tmp_path, modes, layers)
    wanted = theirs.encode(TEXTS)
    ours = SentenceEncoder.from_pretrained(tmp_path / "theirs", device="cpu")
    assert ours.dim() == wanted.shape[1]
    assert_close(ours.encode(TEXTS), wanted)
    ours.save_pretrained(tmp_path / "ours")
    assert_close(
        peers.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS), wanted
    )
    again = SentenceEncoder.from_pretrained(tmp_path / "ours", device="cpu")
    assert replace(again.settings, max_length=None) == ours.settings  # the model's own is written
    assert np.array_equal(again.encode(TEXTS), ours.encode(TEXTS))


@pytest.fixture
def labse(tmp_path: Path) -> Path:
    """A folder of ours with what LaBSE has after its pooling, and a norm."""
    encoder = small_encoder(tmp_path / "v", pooling="cls", normalize=True)
    after = AfterPooling(Dense(D, 700, True, nn.Tanh()), nn.LayerNorm(700))
    SentenceEncoder(encoder.bert, encoder.tokenizer, encoder.settings, after=after).save_pretrained(
        tmp_path / "labse"
    )
    return tmp_path / "labse"


def test_the_two_lines_that_convert_a_pickle(labse: Path) -> None:
    """Of a layer after the pooling, as a message says them, run by sentence-transformers."""
    pytest.importorskip("sentence_transformers")
    wanted = SentenceEncoder.from_pretrained(labse, device="cpu").encode(TEXTS)
    weights = labse / "2_Dense/model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(InputError, match="2_Dense has no model") as caught:
        SentenceEncoder.from_pretrained(labse)
    run_the_two_lines(str(caught.value))
    converted = SentenceEncoder.from_pretrained(f"{labse}-safetensors", device="cpu")
    assert_close(converted.encode(TEXTS), wanted)


@pytest.mark.parametrize("batch_tokens", [1, 20, 10**6])
def test_a_vector_does_not_depend_on_its_batch(batch_tokens: int, labse: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(labse, device="cpu")
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    assert np.array_equal(encoder.encode(TEXTS, batch_tokens=batch_tokens), alone)


def test_all_rows_at_once_are_the_same_but_for_rounding() -> None:
    after = AfterPooling(Dense(5, 7, False, nn.GELU()), nn.LayerNorm(7))
    vectors = torch.randn(4, 5)
    torch.testing.assert_close(after(vectors), nn.Sequential(*after)(vectors))
    assert after(vectors.half()).dtype == torch.float32


def test_the_layers_and_their_weights_are_what_a_vector_depends_on(labse: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(labse, device="cpu")
    before = model_facts(encoder)
    assert before["dimensions"] == 700
    with torch.no_grad():
        encoder.after[1].bias[0] += 1  # type: ignore[union-attr, operator, index]
    assert model_facts(encoder)["weights"] != before["weights"]


def test_layers_that_do_not_fit_are_named(labse: Path) -> None:
    with pytest.raises(
        InputError, match=r"layer 1 after the pooling \(Dense\) takes .* of 24 .*48"
    ):
        SentenceEncoder.from_pretrained(labse, pooling="mean+cls")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_residual": True}, r"2_Dense/config\.json: use_residual is True; read here: False"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
        ({"activation_function": "mine.Tanh"}, "activation_function is 'mine.Tanh'; read here: "),
        ({"activation_function": ["x"]}, r"activation_function is \['x'\]"),
        ({"bias": 1}, "bias must be true or false, not 1"),
        ({"out_features": "700"}, "out_features must be a number of dimensions, not '700'"),
        ({"in_features": 10**12}, "in_features must be a number of dimensions"),
        ({"out_features": 70}, r"the weights are .*700.*, and config.json describes .*\[70, 24\]"),
        ({"bias": False}, "the weights are .*linear.bias"),
    ],
)
def test_another_dense_is_refused_by_its_key(
    changed: dict[str, Any], message: str, labse: Path
) -> None:
    file = labse / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(InputError, match=message):
        SentenceEncoder.from_pretrained(labse)


def test_a_dense_with_an_infinite_weight_is_named(labse: Path) -> None:
    file = labse / "2_Dense" / "model.safetensors"
    tensors = load_file(file)
    tensors["linear.bias"][3] = float("inf")
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"2_Dense: linear\.bias of the weights holds NaN or inf"):
        SentenceEncoder.from_pretrained(labse)


def test_a_dense_without_safetensors_is_named(labse: Path) -> None:
    (labse / "2_Dense" / "model.safetensors").rename(labse / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"2_Dense has no model\.safetensors .* is a pickle"):
        SentenceEncoder.from_pretrained(labse)


def test_a_norm_with_an_eps_of_its_own_is_not_saved(labse: Path, tmp_path: Path) -> None:
    """sentence-transformers would open it with another."""
    encoder = SentenceEncoder.from_pretrained(labse)
    encoder.after[1].eps = 1e-12  # type: ignore[union-attr, assignment]
    with pytest.raises(InputError, match=r"layer 2 after the pooling \(LayerNorm\) has eps 1e-12"):
        encoder.save_pretrained(tmp_path / "again")


def test_weighting_by_positions_after_a_prompt_is_refused(labse: Path) -> None:
    """sentence-transformers counts the prompt's positions, and ours begin after it."""
    with pytest.raises(InputError, match="weightedmean with include_prompt false"):
        EncoderSettings("mean+weightedmean", include_prompt=False)


def test_training_refuses_what_it_would_leave_out(labse: Path) -> None:
    with pytest.raises(InputError, match=r"has layers after its pooling \(modules\.json\)"):
        open_start(str(labse))
    modules = json.loads((labse / "modules.json").read_text())
    (labse / "modules.json").write_text(json.dumps(modules[:2]))
    assert open_start(str(labse)).encoder.dim() == D


def test_an_older_pooling_reads_every_key_of_1_pooling(tmp_path: Path) -> None:
    """text-embeddings-inference asks for some of them by name, and for others since 2024."""
    small_encoder(tmp_path / "v", pooling="lasttoken").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "1_Pooling" / "config.json").read_text()) == {
        "word_embedding_dimension": D,
        "pooling_mode_cls_token": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
        "include_prompt": True,
    }


def test_what_is_not_used_here_is_saved_again(labse: Path) -> None:
    file = labse / "config_sentence_transformers.json"
    said = json.loads(file.read_text()) | {
        "__version__": {"sentence_transformers": "2.0.0"},
        "similarity_fn_name": "dot",
    }
    file.write_text(json.dumps(said))
    SentenceEncoder.from_pretrained(labse).save_pretrained(labse.parent / "again")
    again = labse.parent / "again" / "config_sentence_transformers.json"
    assert json.loads(again.read_text()) == said
    shutil.rmtree(labse.parent / "again")
