"""What stands on the encoder: pooling; heads of sentences, pairs, tokens, spans, masked words.

Shapes: B sentences, K pairs, D hidden, C labels, V vocabulary, G sentences of a group, L their
length. `*` stands for the tokens, as the layout arranges them: (B, S) padded, or (N) packed.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import ACTIVATIONS, BertConfig
from minibert.formats.families import FAMILIES
from minibert.layout import Layout
from minibert.model import init_weights


def mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over each sentence's real tokens: (G, L, D), (G, L) -> (G, D). No tokens give 0.

        mean(x) = sum_i mask_i x_i / sum_i mask_i

    [CLS] and [SEP] count, padding does not (Reimers and Gurevych 2019, section 3,
    arXiv:1908.10084).
    """
    if mask is None:
        return states.mean(1)  # (G, L, D) -> (G, D)
    weights = mask.unsqueeze(-1).to(states.dtype)  # (G, L) -> (G, L, 1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)  # (G, L, D) -> (G, D)


def first(states: Tensor, mask: Tensor | None) -> Tensor:
    """The first token of each sentence, which is [CLS]: (G, L, D) -> (G, D)."""
    return states[:, 0]  # (G, L, D) -> (G, D)


def largest(states: Tensor, mask: Tensor | None) -> Tensor:
    """The largest value of each dimension over a sentence's real tokens: -> (G, D)."""
    if mask is None:
        return states.amax(1)  # (G, L, D) -> (G, D)
    padding = ~mask.unsqueeze(-1)  # (G, L) -> (G, L, 1)
    values = states.masked_fill(padding, torch.finfo(states.dtype).min).amax(1)  # (G, D)
    return values.masked_fill(~mask.any(1, keepdim=True), 0)  # (G, D)


def mean_sqrt_len(states: Tensor, mask: Tensor | None) -> Tensor:
    """The sum over each sentence's real tokens, divided by the root of their number: -> (G, D).
    (`mean_sqrt_len_tokens` of sentence-transformers' Pooling.)"""
    if mask is None:
        return states.sum(1) / states.size(1) ** 0.5  # (G, L, D) -> (G, D)
    return mean(states, mask) * mask.sum(1, keepdim=True).to(states.dtype).sqrt()  # (G, D)


def weighted_mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each sentence's real tokens, the first weighing 1, the second 2, and so on:
    -> (G, D) (Muennighoff 2022, section 4.1.1, arXiv:2202.08904)."""
    if mask is None:
        mask = torch.ones_like(states[..., 0], dtype=torch.bool)  # (G, L, D) -> (G, L)
    weights = mask.long().cumsum(1) * mask  # (G, L) -> (G, L)
    weights = weights.unsqueeze(-1).to(states.dtype)  # (G, L) -> (G, L, 1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)  # (G, L, D) -> (G, D)


def last(states: Tensor, mask: Tensor | None) -> Tensor:
    """The last real token of each sentence, which is [SEP]: (G, L, D), (G, L) -> (G, D)."""
    if mask is None:
        return states[:, -1]  # (G, L, D) -> (G, D)
    positions = torch.arange(mask.size(1), device=mask.device)  # (L)
    ends = (positions * mask).amax(1)[:, None, None]  # (G, L) -> (G, 1, 1)
    return states.gather(1, ends.expand(-1, 1, states.size(-1)))[:, 0]  # (G, L, D) -> (G, D)


# The words are those of sentence-transformers' Pooling.
POOLINGS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "cls": first,
    "max": largest,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
    "lasttoken": last,
}


def pool(hidden: Tensor, layout: Layout, pooling: str) -> Tensor:
    """One vector for each sentence from one for each token: (*, D) -> (B, D).

    pooling: a key of POOLINGS, or several joined by "+", such as "mean+max", whose vectors are put
    one after the other: (B, 2 * D). Raises ValueError for any other word.
    """
    words = pooling.split("+")
    if unknown := [word for word in words if word not in POOLINGS]:
        raise ValueError(f"pooling {unknown[0]!r} is not one of {', '.join(POOLINGS)}")
    groups = layout.groups(hidden)
    pooled = [[POOLINGS[word](states, mask) for word in words] for (states,), mask in groups]
    return torch.cat([torch.cat(vectors, -1) for vectors in pooled])  # (B, D) or (B, 2 * D)


def normalize(vectors: Tensor) -> Tensor:
    """Scale each vector to length 1: (B, D) -> (B, D). A vector of zeros stays as it is."""
    return F.normalize(vectors, dim=-1)  # (B, D)


class SentenceHead(nn.Module):
    """Logits for the labels of a sentence: pooling, dropout, one linear layer.

    pooling: as in `pool`, or "pooler": [CLS] through BERT's own pooler (Devlin et al. 2019,
    section 4.1).
    """

    def __init__(self, config: BertConfig, num_labels: int, pooling: str = "mean") -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        init_weights(self.classifier, config)

    def forward(self, hidden: Tensor, layout: Layout, pooler: nn.Module | None = None) -> Tensor:
        if self.pooling == "pooler":
            assert pooler is not None
            vectors = pooler(pool(hidden, layout, "cls"))  # (*, D) -> (B, D)
        else:
            vectors = pool(hidden, layout, self.pooling)  # (*, D) -> (B, D)
        return self.classifier(self.dropout(vectors))  # (B, D) -> (B, C)


class PairHead(nn.Module):
    """Logits for two sentence vectors u and v: one linear layer on (u, v, |u - v|) (Reimers and
    Gurevych 2019, section 3, "classification objective function")."""

    def __init__(self, config: BertConfig, num_labels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * config.hidden_size, num_labels)
        init_weights(self.classifier, config)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        features = torch.cat([u, v, (u - v).abs()], dim=-1)  # (K, D), (K, D) -> (K, 3 * D)
        return self.classifier(features)  # (K, 3 * D) -> (K, C)


class TokenHead(nn.Module):
    """Logits for the labels of each token: dropout, one linear layer (Devlin, section 5.3)."""

    def __init__(self, config: BertConfig, num_labels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        init_weights(self.classifier, config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(self.dropout(hidden))  # (*, D) -> (*, C)


class SpanHead(nn.Module):
    """Logits for each token to be the first of a span, and to be the last: one linear layer
    (Devlin et al. 2019, section 4.2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        init_weights(self.qa_outputs, config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.qa_outputs(hidden)  # (*, D) -> (*, 2)


class MaskedWordHead(nn.Module):
    """Logits for the word at each token (Devlin et al. 2019, section 3.1, task 1).

    A layer of its own, then the product with the embedding of each word, plus a bias for each word:
    `get_masked_lm_output` in Google's run_pretraining.py. The weights are tied: the table of word
    embeddings is handed to each call, so it is always the encoder's own.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        # RoBERTa's head has GELU, whatever its layers have.
        act = FAMILIES[config.model_type].head_act or config.hidden_act
        self.activation = ACTIVATIONS[act]
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        init_weights(self.dense, config)

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        x = self.norm(self.activation(self.dense(hidden)))  # (*, D)
        return F.linear(x, word_embeddings, self.bias)  # (*, D), (V, D) -> (*, V)
