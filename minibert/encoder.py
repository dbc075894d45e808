"""Sentence vectors: text in, numpy out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.files import InputError, read_json, read_object, write_card, write_json
from minibert.heads import POOLINGS, normalize, pool
from minibert.hub import find_model
from minibert.layout import Packed
from minibert.model import Bert
from minibert.tokenizer import Tokenizer, Truncation
from minibert.weights import load_bert

CARD = """# Sentence encoder

A BERT of {config.num_hidden_layers} layers that turns a text of up to {max_length} tokens into a vector of \
{config.hidden_size} numbers: its tokens' vectors, pooled by {pooling}, {scaled} to length 1. Vectors are compared by \
their cosine.

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER OR HUB ID").encode(["a sentence", "another"])
```

In minibert: `SentenceEncoder.from_pretrained("FOLDER OR HUB ID")`.

"""
BATCH_TOKENS = 1024  # about what a CPU's caches like; see tools/benchmark


@dataclass(frozen=True)
class Modules:
    """What a sentence-transformers folder says is done with the last hidden state."""

    transformer: Path  # the folder of the encoder's own files
    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    lower_first: bool = False


class SentenceEncoder:
    """A BERT, its tokenizer, and how its token vectors become a sentence vector.

    pooling: "mean", "cls" or "max". normalize: whether vectors are scaled to length 1.
    max_length: the most tokens of a text that are read, [CLS] and [SEP] included; the tokenizer's limit and the
    model's number of positions hold in any case.
    """

    def __init__(
        self,
        bert: Bert,
        tokenizer: Tokenizer,
        *,
        pooling: str = "mean",
        normalize: bool = False,
        max_length: int | None = None,
    ) -> None:
        if pooling not in POOLINGS:
            raise InputError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length must be a positive number of tokens, not {max_length}")
        limits = (max_length, tokenizer.max_length, bert.config.max_position_embeddings)
        tokenizer.max_length = min(limit for limit in limits if limit is not None)
        self.bert = bert
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.normalize = normalize

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        pooling: str | None = None,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "SentenceEncoder":
        """The encoder of a checkpoint, as its own files say (modules.json, where there is one; else the plain mean).

        name: a folder, "minilm", or a Hub id (with the branch, tag or commit `revision`). pooling, max_length: in
        place of what the files say. device: "cuda" where there is one, if left out.
        Raises InputError if the model cannot be had, or if its files are damaged or ask for what is not implemented.
        """
        modules = read_modules(find_model(name, revision).path)
        bert, _ = load_bert(modules.transformer, dtype)
        tokenizer = Tokenizer.from_folder(modules.transformer, bert.config.vocab_size)
        if modules.lower_first:
            tokenizer.lower_first()
        return cls(
            bert.to(device or ("cuda" if torch.cuda.is_available() else "cpu")),
            tokenizer,
            pooling=pooling or modules.pooling,
            normalize=modules.normalize,
            max_length=modules.max_length if max_length is None else max_length,
        )

    def encode(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: bool = False,
        truncation: Truncation = "warn",
    ) -> NDArray[np.float32]:
        """One vector a text: (n, D) float32, in the order given. A single string gives its one vector, (D,).

        normalize: scale to length 1; left out, as the model's files say. batch_tokens: about how many tokens are
        computed at once; it changes speed and memory, not the vectors beyond float rounding. progress: a bar on
        stderr. truncation: what happens to a text over the limit, "warn", "error" or "silent".
        Raises InputError for what is not text.
        """
        if isinstance(texts, str):
            return self.encode([texts], normalize=normalize, batch_tokens=batch_tokens, truncation=truncation)[0]
        if not isinstance(texts, Iterable) or isinstance(texts, bytes):
            raise InputError(f"texts must be a list of str, or one str, not {type(texts).__name__}")
        if batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, not {batch_tokens}")
        tokens = [encoded.ids for encoded in self.tokenizer.encode(list(texts), truncation)]
        vectors = np.empty((len(tokens), self.bert.config.hidden_size), dtype=np.float32)
        with torch.inference_mode(), _progress_bar(len(tokens), progress) as bar:
            for batch in batches([len(ids) for ids in tokens], batch_tokens):
                vectors[batch] = self._encode_batch([tokens[i] for i in batch], normalize)
                bar.update(len(batch))
        return vectors

    def save_pretrained(
        self, folder: str | PathLike[str], *, facts: Mapping[str, Any] | None = None, training: str = ""
    ) -> None:
        """Write a folder that `sentence_transformers.SentenceTransformer`, `transformers`, `tokenizers` and we open.

        facts, training: for its model card, README.md. What the Hub should know besides, such as {"base_model": ID};
        and what people should, in Markdown.
        Raises InputError if the disk refuses; files that were there before are whole in any case.
        """
        folder = Path(folder)
        self.bert.save_pretrained(folder)
        self.tokenizer.save(folder)
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * self.normalize
        write_json(
            folder / "modules.json",
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(kinds)
            ],
        )
        modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
        flags = {f"pooling_mode_{mode}": pooling == self.pooling for pooling, mode in modes.items()}
        write_json(
            folder / "1_Pooling" / "config.json", {"word_embedding_dimension": self.bert.config.hidden_size, **flags}
        )
        write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": self.tokenizer.max_length, "do_lower_case": False},
        )
        write_json(
            folder / "config_sentence_transformers.json",
            {
                "model_type": "SentenceTransformer",
                "prompts": {},
                "default_prompt_name": None,
                "similarity_fn_name": "cosine",
            },
        )
        about = {
            "library_name": "sentence-transformers",
            "pipeline_tag": "sentence-similarity",
            "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "bert"],
        }
        text = CARD.format(
            config=self.bert.config,
            max_length=self.tokenizer.max_length,
            pooling=self.pooling,
            scaled="scaled" if self.normalize else "not scaled",
        )
        write_card(folder / "README.md", about | dict(facts or {}), text + training)

    def _encode_batch(self, tokens: Sequence[list[int]], normalized: bool | None) -> NDArray[np.float32]:
        device = self.bert.embeddings.word.weight.device
        layout = Packed([len(ids) for ids in tokens], device)
        input_ids = torch.tensor([i for ids in tokens for i in ids], device=device)
        vectors = pool(self.bert(input_ids, layout), layout, self.pooling)
        if self.normalize if normalized is None else normalized:
            vectors = normalize(vectors)
        return vectors.float().cpu().numpy()


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """The numbers of all texts, longest first, cut where a batch would exceed `batch_tokens` tokens.

    Neighbours in length come together, which is what `Packed` likes; a text longer than the budget stands alone.
    Longest first: if memory is too small, that shows at once.
    """
    batch: list[int] = []
    room = batch_tokens
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and lengths[i] > room:
            yield batch
            batch, room = [], batch_tokens
        batch.append(i)
        room -= lengths[i]
    if batch:
        yield batch


def read_modules(folder: Path) -> Modules:
    """The modules.json of a sentence-transformers folder, as plain data; a folder without one is a plain BERT.

    Raises InputError, naming the module, for one that is not implemented here: skipping it would give other vectors.
    """
    file = folder / "modules.json"
    if not file.exists():
        return Modules(transformer=folder)
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {"path", "type"} <= e.keys() for e in entries):
        raise InputError(f"{file}: must be a list of objects with a path and a type")
    kinds = [str(entry["type"]) for entry in entries]
    # "sentence_transformers.models.Pooling" up to version 5, longer since; another package's keeps its whole name.
    kinds = [kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind for kind in kinds]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{file}: the modules are {', '.join(kinds)}; read here: Transformer, Pooling and maybe Normalize"
        )
    transformer, pooling = (_inside(folder, str(entry["path"]), file) for entry in entries[:2])
    prompts_file = folder / "config_sentence_transformers.json"
    prompt = read_object(prompts_file).get("default_prompt_name") if prompts_file.exists() else None
    if prompt is not None:
        raise InputError(f"{prompts_file}: default_prompt_name is {prompt!r}, and no prompts are put before texts here")
    settings_file = transformer / "sentence_bert_config.json"
    settings = read_object(settings_file) if settings_file.exists() else {}
    max_length = settings.get("max_seq_length")
    if max_length is not None and (type(max_length) is not int or max_length < 1):
        raise InputError(f"{settings_file}: max_seq_length must be a positive whole number, not {max_length!r}")
    return Modules(
        transformer,
        read_pooling(pooling / "config.json"),
        normalize="Normalize" in kinds,
        max_length=max_length,
        lower_first=bool(settings.get("do_lower_case", False)),
    )


def read_pooling(file: Path) -> str:
    """The pooling that a 1_Pooling/config.json asks for. Raises InputError for one that is not implemented here."""
    content = read_object(file)
    if "pooling_mode" in content:  # as sentence-transformers 6 writes it
        modes = content["pooling_mode"]
        asked = [str(mode) for mode in modes] if isinstance(modes, list) else [str(modes)]
    else:
        flags = [key for key, value in content.items() if key.startswith("pooling_mode_") and value is True]
        asked = [key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for key in flags]
    if len(asked) != 1 or asked[0] not in POOLINGS:
        raise InputError(
            f"{file}: pooling by {' and '.join(asked) or 'nothing'}; read here: one of {', '.join(POOLINGS)}"
        )
    return asked[0]


def _inside(folder: Path, path: str, file: Path) -> Path:
    if "\0" not in path and (inner := (folder / path).resolve()).is_relative_to(folder.resolve()):
        return inner
    raise InputError(f"{file}: the path {path!r} leads out of the folder")


def _progress_bar(total: int, show: bool) -> tqdm:
    return tqdm(total=total, unit="text", disable=None if show else True)  # None: quiet when not a terminal
