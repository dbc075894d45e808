"""config.json of a BERT, with its original names."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from minibert.files import InputError, read_object

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
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


class Config(Protocol):
    """A dataclass whose fields are named as in config.json, such as BertConfig."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_hidden_layers(self) -> int: ...


AnyConfig = TypeVar("AnyConfig", bound=Config)


def read_config(file: Path, config_class: type[AnyConfig]) -> AnyConfig:
    """A config.json as an instance of `config_class`.

    The constructor of config_class raises ValueError, naming the field, for a value that cannot be.
    Raises InputError, naming file, key and value, for that, for a size that is missing, and for
    what is not a plain BERT encoder.
    """
    content = read_object(file)
    for key, value in ONLY.items():
        if content.get(key, value) != value:
            raise InputError(
                f"{file}: {key} is {content[key]!r}, and this BERT can only be {value!r}"
            )
    if missing := [key for key in SIZES if key not in content]:
        raise InputError(
            f"{file}: {', '.join(missing)} missing; a BERT's config names all of {', '.join(SIZES)}"
        )
    known = {field.name for field in fields(config_class)}
    try:
        return config_class(**{key: value for key, value in content.items() if key in known})
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error


def check_config(config: Any, activations: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, for a value that no BERT can have."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("_prob"):
            if type(value) not in (int, float) or not 0 <= value < 1:
                raise ValueError(f"{field.name} must be a number from 0 to below 1, not {value!r}")
        elif field.type is float:
            if type(value) not in (int, float) or not 0 < value < 1:
                raise ValueError(f"{field.name} must be a number between 0 and 1, not {value!r}")
        elif field.name not in ("hidden_act", "pad_token_id") and (
            type(value) is not int or not 0 < value < 2**31
        ):
            raise ValueError(f"{field.name} must be a positive whole number, not {value!r}")
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
