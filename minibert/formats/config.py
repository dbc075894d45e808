"""config.json of a BERT, by its original names."""

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


def read_config(folder: Path, config_class: type[AnyConfig]) -> AnyConfig:
    """The config.json of a model folder, as an instance of `config_class`.

    The constructor of config_class raises ValueError, naming the field, for a value that cannot be.
    Raises InputError, naming file, key and value, for that, for a size that is missing, and for
    what is not a plain BERT encoder.
    """
    file = folder / "config.json"
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
