"""python -m tools.make_bert_base FOLDER: a stand-in for bert-base-uncased, of the same shape, with
random weights.

Writes config.json and model.safetensors with exactly the tensor names, shapes, dtype and metadata
of google-bert/bert-base-uncased (revision 86b5e0934494bd15c9632b12f734a8a67f723594): 206 tensors,
110,106,428 float32 values, 440 MB. The same seed gives the same values. It is for measuring and
testing where the real file cannot be had: time, memory and loading depend on its shape alone.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minibert.files import write_json
from minibert.formats.tensors import save_tensors
from minibert.program import run_program

VOCABULARY, HIDDEN, LAYERS, FEED_FORWARD, POSITIONS, TYPES = 30522, 768, 12, 3072, 512, 2

CONFIG: dict[str, Any] = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": FEED_FORWARD,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": TYPES,
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor. The masked-word decoder is not among them: it is the word
    embeddings."""
    # the original names its layer norms' weight and bias so
    table, norm = "bert.embeddings.{}_embeddings.weight", ("gamma", "beta")
    for name, rows in (("word", VOCABULARY), ("position", POSITIONS), ("token_type", TYPES)):
        yield table.format(name), (rows, HIDDEN)
    yield from ((f"bert.embeddings.LayerNorm.{part}", (HIDDEN,)) for part in norm)
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            yield from dense(f"{layer}.attention.{name}", HIDDEN, HIDDEN)
        yield from dense(f"{layer}.intermediate.dense", FEED_FORWARD, HIDDEN)
        yield from dense(f"{layer}.output.dense", HIDDEN, FEED_FORWARD)
        for name in ("attention.output", "output"):
            yield from ((f"{layer}.{name}.LayerNorm.{part}", (HIDDEN,)) for part in norm)
    yield from dense("bert.pooler.dense", HIDDEN, HIDDEN)
    yield "cls.predictions.bias", (VOCABULARY,)
    yield from dense("cls.predictions.transform.dense", HIDDEN, HIDDEN)
    yield from ((f"cls.predictions.transform.LayerNorm.{part}", (HIDDEN,)) for part in norm)
    yield from dense("cls.seq_relationship", 2, HIDDEN)


def dense(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def make_bert_base(folder: Path, seed: int = 0) -> None:
    """Write the two files, each beside the old one and renamed.

    Values are normal with std 0.02, around 0, those of gamma around 1. Raises InputError if the
    disk refuses.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes():
        tensors[name] = (
            torch.randn(shape, generator=generator).mul_(0.02).add_(name.endswith("gamma"))
        )
    save_tensors(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", CONFIG)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.make_bert_base", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="made if it does not exist; files of these names are replaced"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return run_program(lambda: make_bert_base(options.folder, options.seed))


if __name__ == "__main__":
    sys.exit(main())
