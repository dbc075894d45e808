"""Our numbers against those of transformers and sentence-transformers that
tools/make_reference.py recorded.

Evidence: the values in tests/reference, with the versions that computed them in about.json. These
tests need neither library; .ci/run computes the values again and compares.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minibert import Bert, BertConfig, Packed, SentenceEncoder
from minibert.files import read_json, sha256
from minibert.formats.names import model_name
from minibert.formats.tensors import read_tensors, save_tensors
from minibert.heads import pool
from tools.make_reference import differences

REFERENCE = Path(__file__).parent / "reference"
ABOUT = read_json(REFERENCE / "about.json")
TEXTS = ABOUT["texts"]


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> SentenceEncoder:
    assert sha256(minilm / "model.safetensors") == ABOUT["minilm"]["sha256"]
    return SentenceEncoder.from_pretrained(minilm, device="cpu")


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return read_tensors(REFERENCE / "minilm.safetensors")


@pytest.mark.parametrize("i", range(len(TEXTS)))
def test_token_ids_and_hidden_states(
    encoder: SentenceEncoder, recorded: dict[str, Tensor], i: int
) -> None:
    """The states of the first, middle and last token, after the embeddings and each layer, in a
    packed batch: within 1e-5."""
    ids = encoder.tokenizer.encode([TEXTS[i]])[0].ids
    assert ids == recorded[f"{i}.ids"].tolist()
    with torch.inference_mode():
        layout = Packed([len(ids)] * 2)
        packed = encoder.bert.hidden_states(torch.tensor(ids + ids), layout=layout)
    tokens = [len(ids), len(ids) + len(ids) // 2, -1]
    states = torch.stack([state[tokens, :16] for state in packed])
    torch.testing.assert_close(states, recorded[f"{i}.states"], rtol=0, atol=1e-5)


def test_sentence_vectors(encoder: SentenceEncoder, recorded: dict[str, Tensor]) -> None:
    np.testing.assert_allclose(encoder.encode(TEXTS), recorded["vectors"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_a_tiny_random_model(packed: bool) -> None:
    """Every hidden state, the pooler's output, and the gradient of every parameter: within 1e-12 in
    float64."""
    tensors = read_tensors(REFERENCE / "tiny.safetensors")
    by_name = {kind: {} for kind in ("weight", "gradient")}
    for name in tensors:
        kind, _, theirs = name.partition(".")
        if kind in by_name:
            by_name[kind][model_name(theirs)] = tensors[name]
    bert = Bert(BertConfig(**ABOUT["tiny_config"])).double().eval()
    bert.load_state_dict(by_name["weight"])
    assert bert.pooler is not None

    mask = tensors["attention_mask"].bool()
    ids, types = tensors["input_ids"], tensors["token_type_ids"]
    layout = Packed(mask.sum(1).tolist())
    if packed:
        states = bert.hidden_states(ids[mask], token_type_ids=types[mask], layout=layout)
    else:
        states = [state[mask] for state in bert.hidden_states(ids, mask, types)]
    for i, state in enumerate(states):
        torch.testing.assert_close(state, tensors[f"states.{i}"][mask], rtol=0, atol=1e-12)
    pooled = bert.pooler(pool(states[-1], layout, "cls"))
    torch.testing.assert_close(pooled, tensors["pooled"], rtol=0, atol=1e-12)
    (
        (states[-1] * tensors["hidden_weights"][mask]).sum()
        + (pooled * tensors["pooled_weights"]).sum()
    ).backward()
    assert len(by_name["gradient"]) == len(list(bert.parameters()))
    for name, parameter in bert.named_parameters():
        torch.testing.assert_close(parameter.grad, by_name["gradient"][name], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("file", "name", "change", "tolerated"),
    [
        ("minilm.safetensors", "3.states", 2e-6, True),
        ("minilm.safetensors", "3.states", 2e-5, False),
        ("minilm.safetensors", "3.ids", 1, False),
        ("tiny.safetensors", "pooled", 1e-10, False),
        ("tiny.safetensors", "pooled", float("nan"), False),
    ],
)
def test_the_check_names_what_differs(
    tmp_path: Path, file: str, name: str, change: float, tolerated: bool
) -> None:
    fresh = Path(shutil.copytree(REFERENCE, tmp_path / "fresh"))
    assert differences(fresh, REFERENCE) == []
    tensors = read_tensors(fresh / file)
    tensors[name].flatten()[0] += change
    save_tensors(tensors, fresh / file)
    problems = differences(fresh, REFERENCE)
    assert problems == [] if tolerated else problems[0].startswith(f"{file}: {name} differs by ")
