"""Names of tensors: the model's own <-> those of transformers and of checkpoints.

Checkpoints spell names in several ways, and all are read: with a prefix such as `bert.` or without,
and layer norms with `gamma` and `beta` (bert-base-uncased) or `weight` and `bias`. We write names
as `transformers` does: `weight` and `bias`, and the prefix only where the checkpoint has a head
too. The names themselves are in families.py.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from minibert.files import InputError
from minibert.formats.config import Config
from minibert.formats.families import BERT, FAMILIES, Family

# Numbers that no training changes; old versions of transformers save them.
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


def to_transformers(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """A state_dict of ours by the names of transformers' class: `AutoModel` for that of a `Bert`,
    `AutoModelForMaskedLM` or `AutoModelForPreTraining` for that of a `BertForPreTraining`.

    The tensors are the same objects. A name that transformers has for a parameter a second time,
    as of the masked-word head's decoder, is there too.
    """
    family = FAMILIES[config.model_type]
    theirs = {checkpoint_name(name, family): tensor for name, tensor in state.items()}
    if "masked_words.bias" in state:
        for name, target in family.ties.items():
            ours = target if target in state else f"bert.{target}"
            theirs[name] = state[ours]
    return theirs


def from_transformers(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The opposite of `to_transformers`: `bert.load_state_dict(from_transformers(theirs, config))`.

    Raises InputError for a tensor that belongs to no parameter here. A classifier's is one.
    """
    family = FAMILIES[config.model_type]
    ours = {}
    for name, tensor in state.items():
        if name in family.ties or name.endswith(BUFFERS):
            continue
        if (inner := model_name(name, family)) is None:
            raise InputError(f"{name} is no parameter of a {config.model_type} here")
        before = "bert." if name.startswith(family.prefix) else ""
        ours[before + inner] = tensor
    return ours


def checkpoint_name(name: str, family: Family = BERT) -> str:
    """A parameter's name in the files that we write: `layers.3.attention_norm.weight` ->
    `encoder.layer.3.attention.output.LayerNorm.weight`. A `bert.` before it becomes the family's
    prefix. Raises InputError for a part that the family does not have, such as a pooler."""
    inner = name.removeprefix("bert.")
    translated = _translate(inner, family.names)
    if translated is None:
        raise InputError(f"the files of {family.classes} models have no name for {name}")
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
