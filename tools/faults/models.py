"""The files of a model, as strangers give them."""

from pathlib import Path

from minibert import SentenceEncoder
from tools.faults.fuzz import Kind
from tools.faults.mutate import Mutator, mutate_json, mutate_safetensors
from tools.faults.small import TEXTS, write_small_encoder


def encode(folder: Path) -> object:
    """Open the encoder in a folder, and encode a few texts."""
    return SentenceEncoder.from_pretrained(folder, device="cpu").encode(TEXTS)


def kind(name: str, mutator: Mutator, file: str = "") -> Kind:
    """One file of an encoder's folder is changed, and the encoder opened and used."""
    return Kind(name, write_small_encoder, {file or name: mutator}, encode)


KINDS = (
    kind("safetensors", mutate_safetensors, "model.safetensors"),
    kind("config.json", mutate_json),
    kind("tokenizer.json", mutate_json),
)
