"""Names of tensors: the model's own <-> a checkpoint's.

Checkpoints spell names in several ways, and all are read: with a prefix such as `bert.` or without,
and layer norms with `gamma` and `beta` (bert-base-uncased) or `weight` and `bias`. We write names
as `transformers` does: `weight` and `bias`, and the prefix only where the checkpoint has a head
too. The names themselves are in families.py.
"""

import re
from collections.abc import Iterable

from minibert.formats.families import BERT, Family


def checkpoint_name(name: str, family: Family = BERT) -> str:
    """A parameter's name in the files that we write: `layers.3.attention_norm.weight` ->
    `encoder.layer.3.attention.output.LayerNorm.weight`. A `bert.` before it becomes the family's
    prefix."""
    inner = name.removeprefix("bert.")
    translated = _translate(inner, family.names)
    assert translated is not None, name
    return translated if inner == name else family.prefix + translated


def model_name(name: str, family: Family = BERT) -> str | None:
    """The parameter that a checkpoint's tensor fills, in whichever spelling; None if the model has
    no such parameter."""
    name = re.sub(
        r"(?<=LayerNorm\.)gamma$", "weight", re.sub(r"(?<=LayerNorm\.)beta$", "bias", name)
    )
    names = [(theirs, ours) for ours, theirs in family.names]
    return _translate(name.removeprefix(family.prefix), names)


def _translate(name: str, prefixes: Iterable[tuple[str, str]]) -> str | None:
    number = re.search(r"(?<=\.)\d+(?=\.)", name)
    pattern = name if number is None else name[: number.start()] + "{i}" + name[number.end() :]
    for old, new in prefixes:
        if pattern.startswith(old):
            return (new + pattern[len(old) :]).replace("{i}", number[0] if number else "")
    return None
