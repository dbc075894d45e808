"""Sentence vectors: text in, numpy out.

The functions from a string to its vector, each of which calls the next:

1. `Compatible.encode` checks the texts, and `SentenceEncoder._stream` takes them window by window.
2. `Tokenizer.tokenize` makes token ids of them.
3. `compute_batches` sorts them by length into batches, and `compute_vectors` computes a batch.
4. `Bert.forward` gives each token a vector, by `Embeddings.forward` and `Layer.forward`.
5. `pool` makes one vector of a text's tokens, which is scaled to length 1 if the model's files say.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from minibert.after import AfterPooling
from minibert.batching import windows
from minibert.bridge import as_sentence_transformer
from minibert.compatible import BATCH_TOKENS, Call, Compatible
from minibert.devices import as_device, as_dtype
from minibert.fast import inference_copy
from minibert.fast.memory import keep_freed_memory
from minibert.files import InputError, replacing_model
from minibert.formats.cards import write_card
from minibert.formats.checkpoint import warn_of_head
from minibert.formats.hub import find_encoder
from minibert.formats.sentence_transformers import (
    CARD_FACTS,
    EncoderSettings,
    describe,
    read_encoder_folder,
    write_encoder_settings,
)
from minibert.model import Bert
from minibert.precision import uses_bfloat16
from minibert.texts import check_text
from minibert.tokenizer import Tokenizer, Truncated, Truncation
from minibert.vectors import Wanted, compute_batches, compute_vectors


class SentenceEncoder(Compatible):
    """A BERT, its tokenizer, and how its token vectors become a sentence vector.

    `encode` stands in compatible.py, since its arguments are sentence-transformers' too.
    settings: see `EncoderSettings`; `more` are single fields of it, in its place or on top of it.
    after: layers that a vector passes between pooling and normalisation; most models have none.
    precision: of the model's matrix products, see `uses_bfloat16`; all else is float32.
    A text's limit is the smallest of settings.max_length, the tokenizer's, and the model's number
    of positions. Raises InputError for settings that make no sense, or do not fit the model.
    """

    _fast: tuple[nn.Module, bool] | None  # `_fast_copy`, as long as nobody else holds the model

    def __init__(
        self,
        bert: Bert,
        tokenizer: Tokenizer | None = None,
        settings: EncoderSettings | None = None,
        *,
        after: AfterPooling | None = None,
        precision: str = "float32",
        **more: Any,
    ) -> None:
        if tokenizer is None:
            raise InputError(
                "SentenceEncoder takes a Bert and its tokenizer; to open a model by its name: "
                f"SentenceEncoder.from_pretrained({bert!r:.200})"
            )
        self.settings = replace(settings or EncoderSettings(), **more)
        self.bert, self.after, self.precision = bert, after or AfterPooling(), precision
        uses_bfloat16(precision, bert.device, bert.dtype)  # raises for what cannot be had
        self.tokenizer = tokenizer.limited(self.settings.max_length, bert.config.most_tokens)
        self.settings.prompt()  # raises for a default that is not among the prompts
        self.dim()  # raises for a truncate_dim that the model does not have

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        pooling: str | None = None,
        max_length: int | None = None,
        truncate_dim: int | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        precision: str = "float32",
    ) -> "SentenceEncoder":
        """The encoder of a checkpoint, as its own files say.

        name: a folder, "minilm", or a Hub id (with the branch, tag or commit `revision`).
        pooling, max_length, truncate_dim: not as the files say. device: see `as_device`. dtype: of
        weights and states, "bfloat16" say. precision: of the products of float32 weights,
        "float32", "bfloat16" or "auto", see `uses_bfloat16`.
        Raises InputError if the model cannot be had, or if its files are damaged or ask for what is
        not implemented. Warns of an unknown pooling, taken for the mean, and of a head left aside.
        """
        device, dtype = as_device(device), as_dtype(dtype)
        folder = read_encoder_folder(find_encoder(name, revision, pooling))
        asked = {"pooling": pooling, "max_length": max_length, "truncate_dim": truncate_dim}
        more: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        bert, report = Bert.from_folder(folder.transformer, dtype)
        warn_of_head(folder.transformer, report, stacklevel=2)
        tokenizer = Tokenizer.from_folder(folder.transformer, bert.config.vocab_size)
        if folder.lower_first:
            tokenizer.lower_first()
        if max_length or folder.settings.max_length:  # which sentence-transformers obeys
            tokenizer.max_length = None
        keep_freed_memory()
        bert.to(device)
        more |= {"after": folder.after, "precision": precision}
        encoder = cls(bert, tokenizer, folder.settings, **more)
        encoder._fast = encoder._fast_copy()  # nobody else has the model
        return encoder

    @property
    def bert(self) -> Bert:
        """The model.

        Whoever holds it may change its weights. So from its first use on, and in a copy of the
        encoder, `encode` makes its fast copy of the model again in each call. For MiniLM that takes
        about 20 ms.
        """
        self._fast = None
        return self._bert

    @bert.setter
    def bert(self, bert: Bert) -> None:
        self._bert, self._fast = bert, None

    @property
    def bfloat16(self) -> bool:
        """Whether products are computed in bfloat16."""
        return uses_bfloat16(self.precision, self._bert.device, self._bert.dtype)

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device, in place. Returns the encoder. Raises InputError for a device
        that is not there, or that cannot compute in `precision`."""
        device = as_device(device)
        uses_bfloat16(self.precision, device, self._bert.dtype)
        nobody_else_has_it = self._fast is not None
        self._bert.to(device)
        self._fast = self._fast_copy() if nobody_else_has_it else None
        return self

    def to_sentence_transformers(self) -> Any:
        """A `SentenceTransformer` that shares this encoder's model, for libraries that ask for one.

        Whatever trains it trains this encoder. See `as_sentence_transformer`.
        """
        return as_sentence_transformer(
            self.bert, self.tokenizer, self.settings, self.after, self.bfloat16
        )

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds."""
        return vars(self) | {"_bert": self.bert, "_fast": None}

    def stream(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: bool = False,
        truncation: Truncation = "warn",
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        first: int = 0,
        total: int | None = None,
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Encode a stream of any length: yields texts and their vectors, a window at a time.

        Memory stays flat: a window of texts is read, computed and yielded before the next is read.
        first: the number of the first text, for messages. total: how many there are, with those
        before the first, for the progress bar. The rest is as in `encode`.
        """
        before, dim = self.settings.prompt(prompt, prompt_name), self.dim(truncate_dim)
        call = Call(normalize, batch_tokens, progress, truncation, before, dim)
        numbered = enumerate(texts, start=first)
        checked = (
            check_text(text, f"text number {number} (counted from 0)") for number, text in numbered
        )
        return self._stream(checked, call, first, total)

    def dim(self, truncate_dim: int | None = None) -> int:
        """How many numbers a vector has: `truncate_dim`, or what the files say, or all.

        All are the hidden size, once for each pooling, unless layers after the pooling change that.
        Raises InputError for more than all, or less than one.
        """
        poolings = len(self.settings.pooling.split("+"))
        whole = self.after.width(poolings * self._bert.config.hidden_size)
        dims = (truncate_dim, self.settings.truncate_dim, whole)
        wanted = next(dim for dim in dims if dim is not None)
        if not isinstance(wanted, Integral) or not 1 <= wanted <= whole:
            raise InputError(
                f"truncate_dim must be from 1 to {whole}, the size of the model's vectors, "
                f"not {wanted!r}"
            )
        return wanted

    def save_pretrained(
        self,
        folder: str | PathLike[str],
        *,
        facts: Mapping[str, Any] | None = None,
        training: str = "",
    ) -> None:
        """Write a folder that `SentenceTransformer`, `transformers`, `tokenizers` and we open.

        Its model card, README.md, gets `facts` for the Hub, such as {"base_model": ID}, and
        `training` for people, in Markdown.
        Raises InputError if the disk refuses; older files are then unchanged (`replacing_model`).
        """
        config = self._bert.config
        settings = replace(self.settings, max_length=self.tokenizer.max_length)
        about = describe(settings, config.num_hidden_layers, self.dim())
        with replacing_model(Path(folder)) as beside:
            self._bert.save_pretrained(beside)
            self.tokenizer.save(beside, config.type_vocab_size > 1)
            write_encoder_settings(settings, config.hidden_size, self.after, beside)
            write_card(beside / "README.md", CARD_FACTS | dict(facts or {}), about + training)

    def _encode(self, texts: Sequence[str], call: Call) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), call.dim), dtype=np.float32)
        done = 0
        for window, computed in self._stream(texts, call, first=0, total=len(texts)):
            vectors[done : done + len(window)] = computed
            done += len(window)
        return vectors

    def _stream(
        self, texts: Iterable[str], call: Call, first: int, total: int | None
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """`stream` for texts that have been checked."""
        compute = partial(compute_vectors, self._wanted(call))
        truncated = Truncated(self.tokenizer.max_length, call.truncation, first)
        started, tokens_done, texts_done = time.perf_counter(), 0, first
        disable = None if call.progress else True  # None: where stderr is no terminal
        with tqdm(initial=first, total=total, unit="text", disable=disable) as bar:
            for window in windows(texts):
                tokens = self.tokenizer.tokenize([call.prompt + text for text in window])
                if any(one.lost for one in tokens):
                    truncated.add(tokens, texts_done)
                texts_done += len(window)
                # Texts of the same tokens are computed once.
                row_of: dict[tuple[int, ...], int] = {}
                rows = [row_of.setdefault(tuple(one.ids), len(row_of)) for one in tokens]
                distinct = list(row_of)
                model, bfloat16 = self._model()
                results = compute_batches(model, distinct, compute, call.batch_tokens, bfloat16)
                vectors = np.empty((len(distinct), call.dim), dtype=np.float32)
                for batch, computed in results:
                    vectors[batch] = computed
                    tokens_done += sum(len(distinct[i]) for i in batch)
                    seconds = time.perf_counter() - started or math.inf  # a clock may stand still
                    speed = tokens_done / seconds
                    bar.set_postfix({"tok/s": f"{speed:,.0f}"}, refresh=False)
                    bar.update(len(batch))
                bar.update(len(window) - len(distinct))
                yield window, vectors[rows]
                del tokens, rows, row_of, distinct, vectors  # before the next window is read
        if truncated.texts:
            truncated.warn(texts_done)

    def _model(self) -> tuple[nn.Module, bool]:
        if self._bert.device.type == "meta":
            raise InputError(
                "the model is on the device meta, where tensors have shapes and no numbers: "
                "load it with from_pretrained, which puts it on a device that computes"
            )
        return self._fast or self._fast_copy()

    def _fast_copy(self) -> tuple[nn.Module, bool]:
        """A fast copy of the model, and whether its products are in bfloat16."""
        bfloat16 = self.bfloat16
        return inference_copy(self._bert, bfloat16).eval(), bfloat16

    def _wanted(self, call: Call) -> Wanted:
        """How states become the vectors that a call asks for."""
        skip = 0
        if call.prompt and not self.settings.include_prompt:
            skip = len(self.tokenizer.tokenize([call.prompt])[0].ids) - 1  # all but [SEP]
        whole, after = call.normalize is None and self.settings.normalize, self.after
        after.to(self._bert.device)
        return Wanted(skip, self.settings.pooling, after, whole, call.dim, bool(call.normalize))
