"""CONTRIBUTING.md: each example does what its section says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from minibert import Bert, BertConfig, Packed, Padded, heads
from minibert.heads import pool
from tests.documents import ROOT, apply, blocks

DOCUMENT = "CONTRIBUTING.md"


def test_a_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "POOLINGS", dict(heads.POOLINGS))
    exec(*blocks(DOCUMENT, "python", "A pooling"), {})
    lengths = [3, 3, 1, 6]
    hidden = torch.randn(4, 6, 5)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    expected = torch.stack([rows[length - 1] for rows, length in zip(hidden, lengths, strict=True)])
    assert torch.equal(pool(hidden, Padded(mask), "last"), expected)
    assert torch.equal(pool(hidden[mask], Packed(lengths), "last"), expected)


BIAS = """
import torch
from minibert import Bert, BertConfig, Packed
from minibert.fast import speed_up

torch.manual_seed(0)
config = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=100,
)
bert = Bert(config).double().eval()
lengths = [70, 9, 9, 3]
mask = torch.arange(70) < torch.tensor(lengths)[:, None]
ids = torch.randint(50, mask.shape)
plain = bert(ids, mask)[mask]
for layer in bert.layers:
    torch.nn.init.normal_(layer.attention.distance.weight)
padded = bert(ids, mask)[mask]
assert (padded - plain).abs().max() > 1e-3, "the bias does nothing"
found = [padded, bert(ids[mask], layout=Packed(lengths))]
speed_up(bert)
found += [bert(ids, mask)[mask], bert(ids[mask], layout=Packed(lengths))]
assert all(torch.allclose(padded, other, atol=1e-10) for other in found)
found[-1].sum().backward()
assert bert.layers[0].attention.distance.weight.grad.abs().sum() > 0
"""


def test_a_relative_position_bias(tmp_path: Path) -> None:
    """The two changes as printed, in a copy of the library: every layout computes with the bias."""
    shutil.copytree(ROOT / "minibert", tmp_path / "minibert")
    model = tmp_path / "minibert" / "model.py"
    source = model.read_text(encoding="utf-8")
    for diff in blocks(DOCUMENT, "diff", "A relative position bias"):
        source = apply(diff, source)
    model.write_text(source, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", BIAS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_fast_variant_of_a_function() -> None:
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(*blocks(DOCUMENT, "python", "A fast variant of a function"), names)
    fast = names["bert"]
    assert isinstance(fast, Bert)
    norms = [part for part in fast.modules() if isinstance(part, nn.LayerNorm)]
    assert {type(part).__name__ for part in norms} == {"FormulaLayerNorm"}
    plain = Bert(BertConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=2))
    plain.load_state_dict(fast.state_dict())
    ids = torch.randint(1000, (3, 7))

    def outcome(bert: Bert) -> list[Tensor]:
        states = bert.eval()(ids)
        states.square().sum().backward()
        return [states, bert.layers[0].get_parameter("attention_norm.weight").grad]  # type: ignore

    for found, expected in zip(outcome(fast), outcome(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
