"""config.json <-> the config of a model."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from minibert.files import InputError, read_object
from minibert.formats.families import FAMILIES, Family

# What a file must say. Whatever newer versions added (dropout, epsilon ...) has a default.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
# What a file may say only in this way: all else is another model.
ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}


class Config(Protocol):
    """A dataclass whose fields are named as in config.json, such as BertConfig."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def model_type(self) -> str: ...

    @property
    def num_hidden_layers(self) -> int: ...


AnyConfig = TypeVar("AnyConfig", bound=Config)


def read_config(file: Path, config_class: type[AnyConfig]) -> AnyConfig:
    """A config.json as an instance of `config_class`.

    The constructor of config_class raises ValueError, naming the field, for a value that cannot be.
    Raises InputError, naming file, key and value, for that, for a size that is missing, and for
    what is no plain encoder of a family that is read here.
    """
    content = read_object(file)
    model_type = model_type_of(content, file)
    family = FAMILIES[model_type]
    for key, value in ONLY.items():
        if content.get(key, value) != value:
            raise InputError(
                f"{file}: {key} is {content[key]!r}, and this BERT can only be {value!r}"
            )
    sizes = [family.keys.get(size, size) for size in SIZES]
    if missing := [key for key in sizes if key not in content]:
        raise InputError(
            f"{file}: {', '.join(missing)} missing; such a config names all of {', '.join(sizes)}"
        )
    spelled = {name: family.keys.get(name, name) for name in config_class.__dataclass_fields__}
    found = {name: content[key] for name, key in spelled.items() if key in content}
    is_fixed = "embedding_size" in family.fixed.keys() & found.keys()
    if is_fixed and found["embedding_size"] == found["hidden_size"]:
        del found["embedding_size"]  # as wide as the hidden states, which is what its absence means
    values = {**family.fixed, **family.defaults, **found, "model_type": model_type}
    try:
        return config_class(**values)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error


def model_type_of(content: Mapping[str, Any], file: Path) -> str:
    """The family of a config.json. One of 2019 names only the class of the model. Raises InputError
    for a family that is not read here."""
    names = content.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else "BertModel"
    by_class = (t for t, f in FAMILIES.items() if re.match(f"{f.classes}(Model|For)", name))
    found = content.get("model_type", next(by_class, name))
    if not isinstance(found, str) or found not in FAMILIES:
        key = "model_type" if "model_type" in content else "there is no model_type; the class"
        raise InputError(f"{file}: {key} is {found!r}, and read here are {', '.join(FAMILIES)}")
    return found


def family_of(file: Path) -> Family:
    """The family of the model of a config.json. Raises InputError as `read_config`."""
    return FAMILIES[model_type_of(read_object(file), file)]


def config_content(config: Config) -> dict[str, Any]:
    """A config's entries of config.json."""
    family = FAMILIES[config.model_type]
    return {
        family.keys.get(name, name): value
        for name, value in vars(config).items()
        if value is not None and name not in family.fixed
    } | {"position_embedding_type": "absolute"}


def check_config(config: Any, activations: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, for a value that no model of the config's family can
    have."""
    if config.model_type not in FAMILIES:
        raise ValueError(f"model_type {config.model_type!r} is not one of {', '.join(FAMILIES)}")
    fixed = FAMILIES[config.model_type].fixed
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in fixed:
            if value != fixed[field.name]:
                raise ValueError(
                    f"{field.name} of a {config.model_type} is {fixed[field.name]!r}, "
                    f"and never {value!r}"
                )
        elif field.name.endswith("_prob"):
            if type(value) not in (int, float) or not 0 <= value < 1:
                raise ValueError(f"{field.name} must be a number from 0 to below 1, not {value!r}")
        elif field.type is float:
            if type(value) not in (int, float) or not 0 < value < 1:
                raise ValueError(f"{field.name} must be a number between 0 and 1, not {value!r}")
        elif field.name not in ("model_type", "hidden_act", "pad_token_id") and (
            type(value) is not int or not 0 < value < 2**31
        ):
            raise ValueError(
                f"{field.name} must be a whole number from 1 to {2**31 - 1}, not {value!r}"
            )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}"
        )
    if not isinstance(config.hidden_act, str) or config.hidden_act not in activations:
        raise ValueError(f"hidden_act {config.hidden_act!r} is not one of {', '.join(activations)}")
    if type(config.pad_token_id) is not int or not 0 <= config.pad_token_id < config.vocab_size:
        raise ValueError(
            f"pad_token_id {config.pad_token_id!r} is not an id of the {config.vocab_size} words"
        )
    if config.most_tokens < 1:
        raise ValueError(
            f"max_position_embeddings {config.max_position_embeddings} leaves no position: "
            f"the first is {config.first_position}"
        )
