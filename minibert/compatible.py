"""`encode` as code that was written for sentence-transformers calls it, and the methods beside it.

All names mean what they mean there. Two arguments are better said in another way here:

- `batch_size` counts texts, whatever their lengths. Ours is `batch_tokens`. Their default of 32
  texts becomes our default of 1,024 tokens, and other numbers in proportion. Neither changes a
  vector.
- `show_progress_bar` is `progress` here.

And two stay different: a text that is cut off gives a warning, and no texts give a (0, D) array.

Shapes: B texts, K pairs of vectors, L tokens of a text, D hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minibert.files import InputError
from minibert.formats.sentence_transformers import EncoderSettings
from minibert.model import Bert
from minibert.quantize import CALIBRATED, KINDS, find_ranges, quantize
from minibert.similarity import Vectors, pair_similarities, similarities
from minibert.texts import list_of_texts
from minibert.tokenizer import Tokenizer
from minibert.tokens import Truncation
from minibert.vectors import compute_batches, compute_states

BATCH_TOKENS = 1024  # keeps a batch in a CPU's caches; measured by tools/benchmark
BATCH_SIZE = 32  # the default in sentence-transformers
Given = Iterable[str] | None
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """What a call of `encode` or `stream` asks for. Raises InputError for a budget of no token."""

    normalize: bool | None
    batch_tokens: int
    progress: bool
    truncation: Truncation
    prompt: str  # put before each text
    dim: int  # how many numbers of a vector are kept

    def __post_init__(self) -> None:
        if not isinstance(self.batch_tokens, Integral) or self.batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, not {self.batch_tokens!r}")


class Options(TypedDict, total=False):
    """The arguments of `encode` that do not change the type of its result."""

    normalize: bool | None
    batch_tokens: int | None
    progress: bool | None
    truncation: Truncation
    prompt: str | None
    prompt_name: str | None
    truncate_dim: int | None
    sentences: Given
    inputs: Given
    normalize_embeddings: bool | None
    batch_size: int | None
    show_progress_bar: bool | None
    device: str | torch.device | None
    precision: Precision


class WithDefaults(Options, total=False):
    """The arguments of a call whose result is an array."""

    convert_to_numpy: Literal[True]
    convert_to_tensor: Literal[False]
    output_value: Literal["sentence_embedding"]


class Compatible(ABC):
    """The part of a SentenceEncoder that has the names of a SentenceTransformer."""

    settings: EncoderSettings
    tokenizer: Tokenizer
    _bert: Bert

    @overload
    def encode(
        self, texts: Given = ..., *, convert_to_tensor: Literal[True], **more: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode(
        self, texts: Given = ..., *, convert_to_numpy: Literal[False], **more: Unpack[Options]
    ) -> Sequence[Tensor]: ...
    @overload
    def encode(
        self,
        texts: Given = ...,
        *,
        output_value: Literal["token_embeddings"],
        **more: Unpack[Options],
    ) -> Sequence[Tensor]: ...
    @overload
    def encode(self, texts: Given = ..., **more: Unpack[WithDefaults]) -> NDArray[Any]: ...

    def encode(
        self,
        texts: Given = None,
        *,
        normalize: bool | None = None,
        batch_tokens: int | None = None,
        progress: bool | None = None,
        truncation: Truncation = "warn",
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        sentences: Given = None,
        inputs: Given = None,
        normalize_embeddings: bool | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        output_value: Literal["sentence_embedding", "token_embeddings"] = "sentence_embedding",
    ) -> Any:
        """One vector for each text: (n, D) float32, in the order given; (D,) for a single string.

        With float32 weights, on a CPU with AVX2 or AVX-512, a text's vector is the same to the last
        bit whatever other texts are encoded with it.
        normalize: scale to length 1; left out, as the model's files say. batch_tokens: how many
        tokens a thread computes at once, 1,024 if left out; it changes speed and memory only.
        progress: a bar on stderr. truncation: what happens to a text over the limit, "warn",
        "error" or "silent". prompt: put before each text; or prompt_name, one of the model's own;
        "" for none, where the model has a default. truncate_dim: keep that many numbers of a
        vector, in place of what the files say. As in sentence-transformers, these have length 1
        only with normalize=True.

        The rest are sentence-transformers' words. sentences, inputs: the texts. batch_size,
        show_progress_bar: see this file's beginning. normalize_embeddings: True is normalize=True,
        False is as the files say. device: moves the model there first. precision: of the vectors,
        as in `quantize`; "int8" and "uint8" take their ranges from these very vectors.
        convert_to_tensor: one Tensor on the model's device. convert_to_numpy: False for a list of
        Tensors. output_value: "token_embeddings" for a Tensor (L, D) of each text, its last hidden
        state with [CLS], [SEP] and the prompt.
        Raises InputError for what is not text, and for two words for the same thing.
        """
        given = one_of(texts=texts, sentences=sentences, inputs=inputs)
        several = list_of_texts(given)
        one_of(normalize=normalize, normalize_embeddings=normalize_embeddings)
        one_of(batch_tokens=batch_tokens, batch_size=batch_size)
        if batch_size is not None:
            if not isinstance(batch_size, Integral) or batch_size < 1:
                raise InputError(f"batch_size must be at least 1, not {batch_size!r}")
            batch_tokens = batch_size * BATCH_TOKENS // BATCH_SIZE
        call = Call(
            normalize_embeddings or normalize,
            BATCH_TOKENS if batch_tokens is None else batch_tokens,
            bool(one_of(progress=progress, show_progress_bar=show_progress_bar)),
            truncation,
            self.settings.prompt(prompt, prompt_name),
            self.dim(truncate_dim),
        )
        if device is not None:
            self.to(device)
        if output_value == "sentence_embedding":
            vectors = self._encode(several, call)
            if precision != "float32":
                vectors = in_precision(vectors, precision)
            if convert_to_numpy and not convert_to_tensor:
                return vectors[0] if isinstance(given, str) else vectors
            whole = torch.from_numpy(vectors).to(self.device)
            results = whole if convert_to_tensor else list(whole)
        elif output_value == "token_embeddings" and precision == "float32":
            results = self._token_states(several, call)
        else:
            raise InputError(
                'output_value is "sentence_embedding", or "token_embeddings" in precision '
                f'"float32", not {output_value!r} in {precision!r}'
            )
        return results[0] if isinstance(given, str) else results

    def encode_query(self, texts: Given = None, **options: Any) -> Any:
        """`encode` with the model's prompt "query", where the call names none. A model without it
        puts nothing before the texts."""
        return self.encode(texts, **with_prompt("query", options))

    def encode_document(self, texts: Given = None, **options: Any) -> Any:
        """`encode` with the model's prompt "document", likewise."""
        return self.encode(texts, **with_prompt("document", options))

    def similarity(self, first: Vectors, second: Vectors) -> Tensor:
        """How similar each of B vectors is to each of K, by the measure that the model's files
        name: a Tensor (B, K). See `similarities`."""
        return similarities(self.settings.similarity, first, second)

    def similarity_pairwise(self, first: Vectors, second: Vectors) -> Tensor:
        """How similar the vectors of each of K pairs are: a Tensor (K,)."""
        return pair_similarities(self.settings.similarity, first, second)

    @property
    def max_seq_length(self) -> int | None:
        """The most tokens that are read of a text, [CLS] and [SEP] included.

        It can be set. Raises InputError for more than the model has positions, or less than one.
        """
        return self.tokenizer.max_length

    @max_seq_length.setter
    def max_seq_length(self, limit: int) -> None:
        most = self._bert.config.most_tokens
        if type(limit) is not int or not 1 <= limit <= most:
            raise InputError(f"max_seq_length must be from 1 to {most} tokens, not {limit!r}")
        self.tokenizer.max_length = limit

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._bert.device

    def get_sentence_embedding_dimension(self) -> int:
        """How many numbers a vector has: `dim`."""
        return self.dim()

    get_embedding_dimension = get_sentence_embedding_dimension  # its name since version 6

    @abstractmethod
    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device, in place."""

    @abstractmethod
    def dim(self, truncate_dim: int | None = None) -> int:
        """How many numbers a vector has."""

    @abstractmethod
    def _encode(self, texts: Sequence[str], call: Call) -> NDArray[np.float32]:
        """The vectors of texts: (B, D)."""

    @abstractmethod
    def _model(self) -> tuple[nn.Module, bool]:
        """The model as it computes, without dropout, over packed tokens; and whether its products
        are in bfloat16."""

    def _token_states(self, texts: Sequence[str], call: Call) -> list[Tensor]:
        """The last hidden state of each text, (L, D)."""
        tokens = self.tokenizer.encode([call.prompt + text for text in texts], call.truncation)
        ids = [tuple(one.ids) for one in tokens]
        model, bfloat16 = self._model()
        states: dict[int, Tensor] = {}
        for batch, found in compute_batches(
            model, ids, compute_states, call.batch_tokens, bfloat16
        ):
            states.update(zip(batch, found, strict=True))
        return [states[i] for i in range(len(texts))]


def one_of(**words: T | None) -> T | None:
    """The value of the word that is given, of several for the same thing. Raises InputError if more
    than one is."""
    given = {word: value for word, value in words.items() if value is not None}
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} mean the same: give one of them")
    return next(iter(given.values()), None)


def with_prompt(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the prompt of that name, if they ask for none."""
    asked = options.get("prompt") is not None or options.get("prompt_name") is not None
    return options if asked else options | {"prompt_name": name}


def in_precision(vectors: NDArray[np.float32], precision: Precision) -> NDArray[Any]:
    """Vectors in a precision, with their own ranges where it needs some."""
    if precision in ("bfloat16", "auto"):
        raise InputError(
            f"encode's precision is that of the vectors: {', '.join(KINDS)}. {precision!r} is one "
            "of the model's products, an argument of from_pretrained"
        )
    if precision not in CALIBRATED:
        return quantize(vectors, precision)
    if len(vectors) < 2:
        raise InputError(
            f"{precision} takes its ranges from the vectors of the call, so it needs two texts at "
            "least; minibert.quantize.quantize takes ranges of your own"
        )
    return quantize(vectors, precision, find_ranges([vectors]))
