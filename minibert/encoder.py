"""Sentence vectors: text in, numpy out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.files import InputError
from minibert.formats.cards import write_card
from minibert.formats.hub import find_encoder
from minibert.formats.sentence_transformers import (
    CARD_FACTS,
    EncoderSettings,
    describe,
    read_encoder_folder,
    write_encoder_settings,
)
from minibert.heads import POOLINGS, normalize, pool
from minibert.layout import Packed
from minibert.linear import speed_up
from minibert.model import Bert
from minibert.tokenizer import Tokenizer, Truncated, Truncation, check_text, check_texts

BATCH_TOKENS = 1024  # about what a CPU's caches like; see tools/benchmark
WINDOW_CHARACTERS = 2**18  # of a stream, sorted and computed together: a few seconds' work
Input = TypeVar("Input")
Output = TypeVar("Output")


class SentenceEncoder:
    """A BERT, its tokenizer, and how its token vectors become a sentence vector.

    pooling: "mean", "cls" or "max". normalize: whether vectors are scaled to length 1. max_length:
    the most tokens of a text that are read, [CLS] and [SEP] included; the tokenizer's limit and the
    model's number of positions hold in any case. prompts: what may be put before each text, by
    name; default_prompt_name: which is, if a call asks for none. include_prompt: whether its tokens
    are pooled too. truncate_dim: how many numbers of a vector are kept, from the first on (Kusupati
    et al. 2022, arXiv:2205.13147).
    """

    def __init__(
        self,
        bert: Bert,
        tokenizer: Tokenizer,
        *,
        pooling: str = "mean",
        normalize: bool = False,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
        truncate_dim: int | None = None,
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
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.include_prompt = include_prompt
        self.truncate_dim = truncate_dim
        self.prompt()  # raises for a default that is not there
        self.dim()

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
        dtype: torch.dtype = torch.float32,
    ) -> "SentenceEncoder":
        """The encoder of a checkpoint, as its own files say (modules.json, where there is one; else
        the plain mean).

        name: a folder, "minilm", or a Hub id (with the branch, tag or commit `revision`). pooling,
        max_length, truncate_dim: in place of what the files say. device: "cuda" where there is one,
        if left out. On a CPU with AVX-512 the model's linear layers are the fast ones of
        minibert/linear.py, with the same parameters. Raises InputError if the model cannot be had,
        or if its files are damaged or ask for what is not implemented.
        """
        found = read_encoder_folder(find_encoder(name, revision, pooling))
        settings = found.settings
        bert = Bert.from_pretrained(found.transformer, dtype=dtype)
        speed_up(bert)
        keep_freed_memory()
        tokenizer = Tokenizer.from_folder(found.transformer, bert.config.vocab_size)
        if found.lower_first:
            tokenizer.lower_first()
        return cls(
            bert.to(device or ("cuda" if torch.cuda.is_available() else "cpu")),
            tokenizer,
            pooling=pooling or settings.pooling,
            normalize=settings.normalize,
            max_length=settings.max_length if max_length is None else max_length,
            prompts=settings.prompts,
            default_prompt_name=settings.default_prompt_name,
            include_prompt=settings.include_prompt,
            truncate_dim=settings.truncate_dim if truncate_dim is None else truncate_dim,
        )

    def encode(
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
    ) -> NDArray[np.float32]:
        """One vector a text: (n, D) float32, in the order given. A single string gives its one
        vector, (D,).

        normalize: scale to length 1; left out, as the model's files say. batch_tokens: how many
        tokens a thread computes at once; it changes speed and memory, not the vectors beyond float
        rounding. progress: a bar on stderr. truncation: what happens to a text over the limit,
        "warn", "error" or "silent". prompt: put before each text; or prompt_name, one of the
        model's own; "" for none, where the model has a default. truncate_dim: keep that many
        numbers of a vector, in place of what the files say. As in sentence-transformers, what is
        left has length 1 only with normalize=True. Raises InputError for what is not text.
        """
        alone = isinstance(texts, str)
        if not isinstance(texts, Iterable) or isinstance(texts, bytes):
            raise InputError(f"texts must be a list of str, or one str, not {type(texts).__name__}")
        texts = [texts] if isinstance(texts, str) else list(texts)
        check_texts(texts)
        vectors = np.empty((len(texts), self.dim(truncate_dim)), dtype=np.float32)
        done = 0
        for window, computed in self.stream(
            texts,
            normalize=normalize,
            batch_tokens=batch_tokens,
            progress=progress,
            truncation=truncation,
            prompt=prompt,
            prompt_name=prompt_name,
            truncate_dim=truncate_dim,
            total=len(texts),
        ):
            vectors[done : done + len(window)] = computed
            done += len(window)
        return vectors[0] if alone else vectors

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
        """Read texts without end, and yield some of them and their vectors, (n, D), again and
        again, in their order.

        Memory stays flat: a window of texts is read, sorted by length, computed and yielded before
        the next is read. first: the number of the first text, in messages; total: how many there
        are with those before it, for the bar. All else as in `encode`.
        """
        if batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, not {batch_tokens}")
        before = self.prompt(prompt, prompt_name)
        skipped = (
            0
            if self.include_prompt or not before
            else len(self.tokenizer.encode([before], "silent")[0].ids) - 1
        )
        dim = self.dim(truncate_dim)
        workers = (
            torch.get_num_threads() if self.bert.embeddings.word.weight.device.type == "cpu" else 1
        )
        truncated = Truncated(self.tokenizer.max_length, first)
        started, tokens_done = time.perf_counter(), 0
        with _progress_bar(first, total, progress) as bar:
            for window in windows(texts, first):
                tokens = self.tokenizer.encode([before + text for text in window], "silent")
                truncated.add(tokens)
                if truncation != "warn":
                    truncated.tell(truncation)
                # Texts of the same tokens are computed once.
                all_ids = [tuple(t.ids) for t in tokens]
                places = {ids: i for i, ids in enumerate(dict.fromkeys(all_ids))}
                distinct = list(places)
                vectors = np.empty((len(distinct), dim), dtype=np.float32)
                cut = list(batches([len(ids) for ids in distinct], batch_tokens, workers))
                inputs = [[distinct[i] for i in batch] for batch in cut]
                computed = side_by_side(
                    lambda ids: self._encode_batch(ids, skipped, normalize, dim), inputs, workers
                )
                for batch, ids, rows in zip(cut, inputs, computed, strict=True):
                    vectors[batch] = rows
                    tokens_done += sum(map(len, ids))
                    speed = tokens_done / (time.perf_counter() - started)
                    bar.set_postfix({"tok/s": f"{speed:,.0f}"}, refresh=False)
                    bar.update(len(batch))
                bar.update(len(window) - len(distinct))
                vectors = vectors[[places[ids] for ids in all_ids]]
                yield window, vectors
                # two windows are never in memory at once
                del tokens, all_ids, distinct, places, inputs, vectors
        truncated.tell(truncation)

    def prompt(self, prompt: str | None = None, name: str | None = None) -> str:
        """What is put before each text: `prompt`, or the model's prompt of that name, or its
        default, or nothing.

        Raises InputError for both at once, and for a name that the model has no prompt of.
        """
        if prompt is not None:
            if name is not None:
                raise InputError("give a prompt or the name of one, not both")
            check_text(prompt, "the prompt")
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise InputError(
                f"this model has no prompt {name!r}: its prompts are {', '.join(self.prompts) or 'none'}"
            )
        return self.prompts[name]

    def dim(self, truncate_dim: int | None = None) -> int:
        """How many numbers a vector has: `truncate_dim`, or what the files say, or the hidden size.

        Raises InputError for more than the hidden size, or less than one.
        """
        hidden_size = self.bert.config.hidden_size
        wanted = next(
            dim for dim in (truncate_dim, self.truncate_dim, hidden_size) if dim is not None
        )
        if not 1 <= wanted <= hidden_size:
            raise InputError(
                f"truncate_dim must be from 1 to {hidden_size}, the model's hidden size, not {wanted}"
            )
        return wanted

    def save_pretrained(
        self,
        folder: str | PathLike[str],
        *,
        facts: Mapping[str, Any] | None = None,
        training: str = "",
    ) -> None:
        """Write a folder that `sentence_transformers.SentenceTransformer`, `transformers`,
        `tokenizers` and we open.

        facts, training: for its model card, README.md. What the Hub should know besides, such as
        {"base_model": ID}; and what people should, in Markdown. Raises InputError if the disk
        refuses; files that were there before are whole in any case.
        """
        folder = Path(folder)
        self.bert.save_pretrained(folder)
        self.tokenizer.save(folder)
        settings = EncoderSettings(
            pooling=self.pooling,
            include_prompt=self.include_prompt,
            normalize=self.normalize,
            max_length=self.tokenizer.max_length,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            truncate_dim=self.truncate_dim,
        )
        config = self.bert.config
        write_encoder_settings(settings, config.hidden_size, folder)
        write_card(
            folder / "README.md",
            CARD_FACTS | dict(facts or {}),
            describe(settings, config.num_hidden_layers, config.hidden_size) + training,
        )

    @torch.inference_mode()
    def _encode_batch(
        self, tokens: Sequence[tuple[int, ...]], skipped: int, normalized: bool | None, dim: int
    ) -> NDArray[np.float32]:
        """The vectors of a batch: (B, dim). skipped: how many tokens of each text, its prompt's,
        are not pooled."""
        device = self.bert.embeddings.word.weight.device
        lengths = [len(ids) for ids in tokens]
        layout = Packed(lengths, device)
        hidden = self.bert(torch.tensor([i for ids in tokens for i in ids], device=device), layout)
        if skipped:
            if min(lengths) <= skipped:
                raise InputError(
                    "a prompt and a text have become one word: let the prompt end with a space"
                )
            hidden = hidden[layout.positions >= skipped]
            layout = Packed([length - skipped for length in lengths], device)
        vectors = pool(hidden, layout, self.pooling)
        if normalized is None and self.normalize:
            vectors = normalize(vectors)
        vectors = vectors[:, :dim]
        if normalized:
            vectors = normalize(vectors)
        return vectors.float().cpu().numpy()


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next layer, where it would give it back to the
    system.

    glibc gives back what is free beyond twice the largest block that it has mapped and freed
    (mallopt(3)), which is what one layer takes and frees; the next then waits for the system to
    zero every page anew, up to a fifth of its time. So a block of nearly the largest size that
    counts, 32 MiB, is taken and freed, and not a page of it used.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def windows(texts: Iterable[str], first: int = 0) -> Iterator[list[str]]:
    """The texts in lists of about WINDOW_CHARACTERS characters, one list at a time.

    Where a window ends follows from its own texts alone, so a stream that goes on at a window's end
    has the same ones. Raises InputError for what is no text, with its number, `first` for the
    first.
    """
    window: list[str] = []
    room = WINDOW_CHARACTERS
    for number, text in enumerate(texts, start=first):
        check_text(text, f"text number {number}")
        window.append(text)
        room -= len(text) + 8  # an empty text is work and memory too
        if room <= 0:
            yield window
            window, room = [], WINDOW_CHARACTERS
    if window:
        yield window


def batches(lengths: Sequence[int], batch_tokens: int, workers: int = 1) -> Iterator[list[int]]:
    """The numbers of all texts, longest first, in batches of about equal size, of at most
    `batch_tokens` tokens.

    Neighbours in length come together, which is what `Packed` likes; a text longer than the budget
    stands alone. Longest first: if memory is too small, that shows at once. workers: compute them
    side by side; if more than one batch is needed, there is one for each, as far as there are texts
    enough.
    """
    batch: list[int] = []
    # tokens of the batch, and of all to come
    size, left = 0, sum(min(length, batch_tokens) for length in lengths)
    count = math.ceil(left / batch_tokens)
    if count > 1:
        count = math.ceil(count / workers) * workers
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and (
            size + lengths[i] > batch_tokens or size + lengths[i] / 2 > left / max(count, 1)
        ):
            yield batch
            left, count, batch, size = left - min(size, batch_tokens), count - 1, [], 0
        batch.append(i)
        size += lengths[i]
    if batch:
        yield batch


def side_by_side(
    compute: Callable[[Input], Output], inputs: Sequence[Input], workers: int
) -> Iterator[Output]:
    """What `compute` gives for each input, in their order: `workers` of them at once, each on a
    thread of its own.

    Where all threads compute the same batch, they wait for each other after each operation, and for
    what Python does between two, which together takes a tenth of the time. A single input does get
    all threads, and a few inputs share them. What is set for the calling thread alone, such as
    autocast, does not hold for several.
    """
    if workers == 1 or len(inputs) == 1:
        yield from map(compute, inputs)
        return
    count = min(workers, len(inputs))
    ready = Barrier(count + 1)

    def start() -> None:
        # which sets this thread up; what others set from now on does not reach it
        torch.get_num_threads()
        # for this thread, and for all that are yet to be set up
        torch.set_num_threads(workers // count)
        ready.wait()

    pool = ThreadPoolExecutor(count, initializer=start)
    try:
        results = pool.map(compute, inputs)
        ready.wait()
        torch.set_num_threads(workers)  # for the latter, as before
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _progress_bar(first: int, total: int | None, show: bool) -> tqdm:
    disable = None if show else True  # None: quiet when not a terminal
    return tqdm(initial=first, total=total, unit="text", disable=disable)
