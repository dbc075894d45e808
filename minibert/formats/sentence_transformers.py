"""Reads and writes sentence-transformers' folder format.

modules.json lists what a text passes through. Here that is a Transformer, a Pooling, maybe layers
after it (Dense, LayerNorm: see layers.py), and maybe a Normalize. Each has a folder with its
settings. sentence_bert_config.json and config_sentence_transformers.json hold the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from minibert.after import AfterPooling
from minibert.files import InputError, check_finite, inside, read_json, read_object, write_json
from minibert.formats.layers import LAYERS, read_layers, write_layers
from minibert.texts import check_text

# Facts of a model card, for the Hub.
CARD_FACTS = {
    "library_name": "sentence-transformers",
    "pipeline_tag": "sentence-similarity",
    "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "bert"],
}
# The names of poolings, here and in the format. Several are joined in this order.
POOLINGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}

# What sentence_bert_config.json may say only in this way, or leave empty: all else could give other
# vectors.
ARGUMENTS = ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs")
ONLY: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    **{key: {} for key in (*ARGUMENTS, "config_kwargs", "processing_kwargs")},
    **dict.fromkeys(("query_length", "document_length", "query_expansion")),
}
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
ALWAYS_PROMPTS = ("query", "document")  # empty in a model that has none of that name


@dataclass(frozen=True)
class EncoderSettings:
    """How texts become vectors: what stands before them, how many tokens are read, and how the last
    hidden state becomes one vector.

    Raises InputError for settings that make no sense.
    """

    pooling: str = "mean"  # a key of POOLINGS, or several joined: "mean+max"
    normalize: bool = False  # scale vectors to length 1
    max_length: int | None = None  # in tokens, [CLS] and [SEP] included
    prompts: Mapping[str, str] = field(default_factory=dict)  # by their names
    default_prompt_name: str | None = None  # the prompt of a call that asks for none
    include_prompt: bool = True  # pool the prompt's tokens too
    truncate_dim: int | None = None  # how many numbers of a vector are kept
    similarity: Similarity = "cosine"  # how vectors are compared
    # What else config_sentence_transformers.json says. It is not used here, and saved again.
    others: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise InputError(
                f"max_length must be a positive number of tokens, not {self.max_length}"
            )
        words = self.pooling.split("+")
        if not set(words) <= POOLINGS.keys():
            raise InputError(
                f"pooling {self.pooling!r} is not one of {', '.join(POOLINGS)}, "
                "nor several of them joined by +"
            )
        if "weightedmean" in words and not self.include_prompt:
            raise InputError(
                "pooling by weightedmean with include_prompt false (1_Pooling/config.json): here a "
                "prompt that is not pooled would not count in the weights, so this is refused"
            )

    def prompt(self, prompt: str | None = None, name: str | None = None) -> str:
        """What is put before each text: `prompt`, the prompt of that name, or the default one.

        Raises InputError for both at once, and for a name that there is no prompt of.
        """
        if prompt is not None:
            if name is not None:
                raise InputError("give a prompt or the name of one, not both")
            return check_text(prompt, "the prompt")
        name = self.default_prompt_name if name is None else name
        if name in ALWAYS_PROMPTS:
            return self.prompts.get(name, "")
        if name is not None and name not in self.prompts:
            names = ", ".join(self.prompts) or "none"
            raise InputError(f"this model has no prompt {name!r}: its prompts are {names}")
        return "" if name is None else self.prompts[name]


@dataclass(frozen=True)
class EncoderFolder:
    """What a folder says of a sentence encoder."""

    transformer: Path  # the folder of the encoder's own files
    settings: EncoderSettings
    lower_first: bool  # lower-case texts before they are tokenized
    after: AfterPooling = field(default_factory=AfterPooling)  # the layers after the pooling


def read_encoder_folder(folder: Path) -> EncoderFolder:
    """Read modules.json of a folder, and the settings of its modules, and the weights of those
    after the pooling. A folder without modules.json is a plain BERT.

    Raises InputError, naming the module, for one that is not implemented here: without it the
    vectors would be wrong.
    """
    file = folder / "modules.json"
    if not file.exists():
        return EncoderFolder(folder, EncoderSettings(), lower_first=False)
    entries = read_json(file)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and {"path", "type"} <= e.keys() for e in entries
    ):
        raise InputError(f"{file}: must be a list of objects with a path and a type")
    kinds = [_kind(str(entry["type"])) for entry in entries]
    if kinds == ["Transformer"]:
        raise InputError(
            f"{file}: a Transformer without a Pooling gives no sentence vectors. A CrossEncoder, "
            f"which scores pairs of texts, opens with python -m train.predict --model {folder}"
        )
    layers = [kind for kind in kinds if kind in LAYERS]
    plain = ["Transformer", "Pooling", *layers]
    if kinds not in (plain, [*plain, "Normalize"]):
        raise InputError(
            f"{file}: the modules are {', '.join(kinds)}; read here: Transformer, Pooling, "
            f"maybe some of {', '.join(LAYERS)}, and maybe Normalize at the end"
        )
    transformer, pooling, *rest = (
        inside(folder, str(entry["path"]), file) for entry in entries[: len(plain)]
    )
    max_length, lower_first = _read_transformer(transformer / "sentence_bert_config.json")
    mode, include_prompt = read_pooling(pooling / "config.json")
    more = _read_prompts(folder / "config_sentence_transformers.json")
    settings = EncoderSettings(
        mode, "Normalize" in kinds, max_length, include_prompt=include_prompt, **more
    )
    after = read_layers(list(zip(layers, rest, strict=True)))
    return EncoderFolder(transformer, settings, lower_first, after)


def write_encoder_settings(
    settings: EncoderSettings, hidden_size: int, after: AfterPooling, folder: Path
) -> None:
    """Write settings, and the layers after the pooling, into the folder of the encoder's own files,
    as `sentence_transformers` from version 2 on reads them. Raises InputError if the disk
    refuses."""
    paths = ["", "1_Pooling", *write_layers(after, folder)]
    if settings.normalize:
        paths.append(f"{len(paths)}_Normalize")
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": path,
            "type": f"sentence_transformers.models.{path.partition('_')[2] or 'Transformer'}",
        }
        for i, path in enumerate(paths)
    ]
    words = settings.pooling.split("+")
    pooling: dict[str, object] = {"word_embedding_dimension": hidden_size}
    for name, theirs in POOLINGS.items():
        pooling[f"pooling_mode_{theirs}"] = name in words
    pooling["include_prompt"] = settings.include_prompt
    if words != [name for name in POOLINGS if name in words]:
        pooling["pooling_mode"] = words  # an order that only version 6 has
    prompts = {
        "model_type": "SentenceTransformer",
        **settings.others,
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "truncate_dim": settings.truncate_dim,
        "similarity_fn_name": settings.similarity,
    }
    write_json(folder / "modules.json", entries)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_transformer_settings(settings.max_length, folder)
    write_json(folder / "config_sentence_transformers.json", prompts)


def write_transformer_settings(max_length: int | None, folder: Path) -> None:
    """Write what the first module says of itself. Raises InputError if the disk refuses."""
    content = {"max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", content)


def describe(settings: EncoderSettings, num_layers: int, dim: int) -> str:
    """What a model card says of how texts become vectors, in Markdown. dim: of the vectors."""
    scaled = "scaled" if settings.normalize else "not scaled"
    return f"""# Sentence encoder

A BERT of {num_layers} layers that turns a text of up to {settings.max_length} tokens into a \
vector of {dim} numbers: its tokens' vectors, pooled by \
{settings.pooling}, {scaled} to length 1. Vectors are compared by {settings.similarity}.

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER OR HUB ID").encode(["a sentence", "another"])
```

In minibert: `SentenceEncoder.from_pretrained("FOLDER OR HUB ID")`.

"""


def _kind(type_name: str) -> str:
    """A module's class: "sentence_transformers.models.Pooling" (the path is longer since version 6)
    -> "Pooling". A class of another package keeps its whole name."""
    ours = type_name.startswith("sentence_transformers.")
    return type_name.rpartition(".")[2] if ours else type_name


def _read_transformer(file: Path) -> tuple[int | None, bool]:
    """The max_seq_length and the do_lower_case of a sentence_bert_config.json."""
    content = read_object(file) if file.exists() else {}
    for key, value in ONLY.items():
        if (found := content.get(key)) and found != value:
            raise InputError(
                f"{file}: {key} is {found!r:.200}; read here: {value!r}. Take the entry out if the "
                "vectors do not depend on it"
            )
    max_length = content.get("max_seq_length")
    if max_length is not None and (type(max_length) is not int or max_length < 1):
        raise InputError(
            f"{file}: max_seq_length must be a positive whole number, not {max_length!r}"
        )
    return max_length, bool(content.get("do_lower_case", False))


def read_pooling(file: Path) -> tuple[str, bool]:
    """The pooling that a 1_Pooling/config.json asks for, and whether it counts a prompt's tokens.

    Raises InputError for a pooling that is not implemented here.
    """
    content = read_object(file)
    if "pooling_mode" in content:  # as sentence-transformers 6 writes it
        modes = content["pooling_mode"]
        asked = [str(mode) for mode in modes] if isinstance(modes, list) else [str(modes)]
    else:
        names = {f"pooling_mode_{theirs}": name for name, theirs in POOLINGS.items()}
        keys = [*names, *(key for key in content if key not in names)]
        asked = [
            names.get(key, key)
            for key in keys
            if key.startswith("pooling_mode_") and content.get(key) is True
        ]
    if not asked or not set(asked) <= POOLINGS.keys():
        raise InputError(
            f"{file}: pooling by {' and '.join(asked) or 'nothing'}; "
            f"read here: {', '.join(POOLINGS)}, and several of them joined"
        )
    return "+".join(asked), bool(content.get("include_prompt", True))


def _read_prompts(file: Path) -> dict[str, Any]:
    """What a config_sentence_transformers.json says, as fields of `EncoderSettings`.

    Raises InputError, naming the key, for a prompt that is no text, for a default that is not
    among them, and for a comparison that there is none of.
    """
    content = read_object(file) if file.exists() else {}
    check_finite(content, file)
    prompts, default = content.get("prompts") or {}, content.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str | None) for prompt in prompts.values()
    ):
        raise InputError(
            f"{file}: prompts must be an object of texts by their names, not {prompts!r:.200}"
        )
    if default not in (None, *prompts):
        raise InputError(
            f"{file}: default_prompt_name is {default!r}, "
            f"and the prompts are {', '.join(prompts) or 'none'}"
        )
    dim = content.get("truncate_dim")
    if dim is not None and (type(dim) is not int or dim < 1):
        raise InputError(f"{file}: truncate_dim must be a positive whole number, not {dim!r}")
    similarity = content.get("similarity_fn_name") or "cosine"
    if similarity not in get_args(Similarity):
        names = ", ".join(get_args(Similarity))
        raise InputError(f"{file}: similarity_fn_name {similarity!r} is not one of {names}")
    used = ("model_type", "prompts", "default_prompt_name", "truncate_dim", "similarity_fn_name")
    return {
        "prompts": {name: prompt or "" for name, prompt in prompts.items()},
        "default_prompt_name": default,
        "truncate_dim": dim,
        "similarity": similarity,
        "others": {key: value for key, value in content.items() if key not in used},
    }
