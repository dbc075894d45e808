"""Names of tensors: the model's own <-> a checkpoint's.

Checkpoints spell names in several ways, and all are read: with the prefix `bert.` or without, and
layer norms with `gamma` and `beta` (bert-base-uncased) or `weight` and `bias`. We write names as
`transformers` does: `weight` and `bias`, and `bert.` only where the checkpoint has a head too.
"""

import re
from collections.abc import Iterable

# Prefixes of the model's names beside the checkpoint's; {i} stands for a layer's number.
NAMES = (
    ("embeddings.word.", "embeddings.word_embeddings."),
    ("embeddings.position.", "embeddings.position_embeddings."),
    ("embeddings.token_type.", "embeddings.token_type_embeddings."),
    ("embeddings.norm.", "embeddings.LayerNorm."),
    ("layers.{i}.attention.query.", "encoder.layer.{i}.attention.self.query."),
    ("layers.{i}.attention.key.", "encoder.layer.{i}.attention.self.key."),
    ("layers.{i}.attention.value.", "encoder.layer.{i}.attention.self.value."),
    ("layers.{i}.attention.output.", "encoder.layer.{i}.attention.output.dense."),
    ("layers.{i}.attention_norm.", "encoder.layer.{i}.attention.output.LayerNorm."),
    ("layers.{i}.feed_forward.intermediate.", "encoder.layer.{i}.intermediate.dense."),
    ("layers.{i}.feed_forward.output.", "encoder.layer.{i}.output.dense."),
    ("layers.{i}.feed_forward_norm.", "encoder.layer.{i}.output.LayerNorm."),
    ("pooler.dense.", "pooler.dense."),
    ("masked_words.dense.", "cls.predictions.transform.dense."),
    ("masked_words.norm.", "cls.predictions.transform.LayerNorm."),
    ("masked_words.bias", "cls.predictions.bias"),
    ("next_sentence.", "cls.seq_relationship."),
)
# Some checkpoints hold these a second time: the masked-word head's decoder has the word embeddings
# for its weight, and the head's one bias.
TIES = {
    "cls.predictions.decoder.weight": "embeddings.word.weight",
    "cls.predictions.decoder.bias": "masked_words.bias",
}
ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")


def checkpoint_name(name: str) -> str:
    """A parameter's name in the files that we write: `layers.3.attention_norm.weight` ->
    `encoder.layer.3.attention.output.LayerNorm.weight`. A `bert.` before it stays."""
    inner = name.removeprefix("bert.")
    translated = _translate(inner, NAMES)
    assert translated is not None, name
    return name.removesuffix(inner) + translated


def model_name(name: str) -> str | None:
    """The parameter that a checkpoint's tensor fills, in whichever spelling; None if BERT has no
    such parameter."""
    name = re.sub(
        r"(?<=LayerNorm\.)gamma$", "weight", re.sub(r"(?<=LayerNorm\.)beta$", "bias", name)
    )
    return _translate(name.removeprefix("bert."), [(theirs, ours) for ours, theirs in NAMES])


def _translate(name: str, prefixes: Iterable[tuple[str, str]]) -> str | None:
    number = re.search(r"(?<=\.)\d+(?=\.)", name)
    pattern = name if number is None else name[: number.start()] + "{i}" + name[number.end() :]
    for old, new in prefixes:
        if pattern.startswith(old):
            return (new + pattern[len(old) :]).replace("{i}", number[0] if number else "")
    return None
