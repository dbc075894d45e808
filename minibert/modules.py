"""What a sentence-transformers folder says is done with the last hidden state: read and written as
plain data."""

from dataclasses import dataclass, field
from pathlib import Path

from minibert.files import InputError, read_json, read_object, write_json
from minibert.heads import POOLINGS
from minibert.model import BertConfig

CARD_FACTS = {
    "library_name": "sentence-transformers",
    "pipeline_tag": "sentence-similarity",
    "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "bert"],
}


@dataclass(frozen=True)
class Modules:
    """How texts become vectors: what is put before them, and what is done with the last hidden
    state."""

    transformer: Path  # the folder of the encoder's own files
    pooling: str = "mean"
    include_prompt: bool = True  # whether the prompt's tokens are pooled too
    normalize: bool = False
    max_length: int | None = None
    lower_first: bool = False
    prompts: dict[str, str] = field(default_factory=dict)  # by their names
    default_prompt_name: str | None = None
    truncate_dim: int | None = None  # how many numbers of a vector are kept


def read_modules(folder: Path) -> Modules:
    """The modules.json of a sentence-transformers folder, as plain data; a folder without one is a
    plain BERT.

    Raises InputError, naming the module, for one that is not implemented here: skipping it would
    give other vectors.
    """
    file = folder / "modules.json"
    if not file.exists():
        return Modules(transformer=folder)
    entries = read_json(file)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and {"path", "type"} <= e.keys() for e in entries
    ):
        raise InputError(f"{file}: must be a list of objects with a path and a type")
    kinds = [str(entry["type"]) for entry in entries]
    # "sentence_transformers.models.Pooling" up to version 5, longer since; another package's keeps
    # its whole name.
    kinds = [
        kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        for kind in kinds
    ]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{file}: the modules are {', '.join(kinds)}; read here: Transformer, Pooling and maybe Normalize"
        )
    transformer, pooling = (_inside(folder, str(entry["path"]), file) for entry in entries[:2])
    settings_file = transformer / "sentence_bert_config.json"
    settings = read_object(settings_file) if settings_file.exists() else {}
    max_length = settings.get("max_seq_length")
    if max_length is not None and (type(max_length) is not int or max_length < 1):
        raise InputError(
            f"{settings_file}: max_seq_length must be a positive whole number, not {max_length!r}"
        )
    mode, include_prompt = read_pooling(pooling / "config.json")
    prompts, default_prompt_name, truncate_dim = read_prompts(
        folder / "config_sentence_transformers.json"
    )
    return Modules(
        transformer,
        mode,
        include_prompt,
        normalize="Normalize" in kinds,
        max_length=max_length,
        lower_first=bool(settings.get("do_lower_case", False)),
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        truncate_dim=truncate_dim,
    )


def write_modules(modules: Modules, hidden_size: int) -> None:
    """Write the same into the transformer's folder, as `sentence_transformers` from version 2 on
    opens it."""
    folder = modules.transformer
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [
        ("2_Normalize", "Normalize")
    ] * modules.normalize
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    pooling: dict[str, object] = {"word_embedding_dimension": hidden_size}
    pooling |= {f"pooling_mode_{mode}": name == modules.pooling for name, mode in modes.items()}
    prompts = {
        "model_type": "SentenceTransformer",
        "prompts": modules.prompts,
        "default_prompt_name": modules.default_prompt_name,
        "truncate_dim": modules.truncate_dim,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "modules.json", entries)
    write_json(
        folder / "1_Pooling" / "config.json", pooling | {"include_prompt": modules.include_prompt}
    )
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": modules.max_length, "do_lower_case": False},
    )
    write_json(folder / "config_sentence_transformers.json", prompts)


def card(modules: Modules, config: BertConfig) -> str:
    """What a model card says of how texts become vectors, in Markdown."""
    scaled = "scaled" if modules.normalize else "not scaled"
    return f"""# Sentence encoder

A BERT of {config.num_hidden_layers} layers that turns a text of up to {modules.max_length} tokens into a vector of \
{modules.truncate_dim or config.hidden_size} numbers: its tokens' vectors, pooled by {modules.pooling}, {scaled} to \
length 1. Vectors are compared by their cosine.

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER OR HUB ID").encode(["a sentence", "another"])
```

In minibert: `SentenceEncoder.from_pretrained("FOLDER OR HUB ID")`.

"""


def read_pooling(file: Path) -> tuple[str, bool]:
    """The pooling that a 1_Pooling/config.json asks for, and whether it counts a prompt's tokens.

    Raises InputError for a pooling that is not implemented here.
    """
    content = read_object(file)
    if "pooling_mode" in content:  # as sentence-transformers 6 writes it
        modes = content["pooling_mode"]
        asked = [str(mode) for mode in modes] if isinstance(modes, list) else [str(modes)]
    else:
        flags = [
            key
            for key, value in content.items()
            if key.startswith("pooling_mode_") and value is True
        ]
        asked = [
            key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for key in flags
        ]
    if len(asked) != 1 or asked[0] not in POOLINGS:
        raise InputError(
            f"{file}: pooling by {' and '.join(asked) or 'nothing'}; read here: one of {', '.join(POOLINGS)}"
        )
    return asked[0], bool(content.get("include_prompt", True))


def read_prompts(file: Path) -> tuple[dict[str, str], str | None, int | None]:
    """The prompts of a config_sentence_transformers.json, which one is the default, and its
    truncate_dim, if any.

    Raises InputError, naming the key, for a prompt that is no text and a default that is not among
    them.
    """
    content = read_object(file) if file.exists() else {}
    prompts, default = content.get("prompts") or {}, content.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str | None) for prompt in prompts.values()
    ):
        raise InputError(
            f"{file}: prompts must be an object of texts by their names, not {prompts!r:.200}"
        )
    if default not in (None, *prompts):
        raise InputError(
            f"{file}: default_prompt_name is {default!r}, and the prompts are {', '.join(prompts) or 'none'}"
        )
    dim = content.get("truncate_dim")
    if dim is not None and (type(dim) is not int or dim < 1):
        raise InputError(f"{file}: truncate_dim must be a positive whole number, not {dim!r}")
    return {name: prompt or "" for name, prompt in prompts.items()}, default, dim


def _inside(folder: Path, path: str, file: Path) -> Path:
    if "\0" not in path and (inner := (folder / path).resolve()).is_relative_to(folder.resolve()):
        return inner
    raise InputError(f"{file}: the path {path!r} leads out of the folder")
