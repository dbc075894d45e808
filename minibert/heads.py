"""What stands on the encoder: pooling, the sentence head, the token head, and the masked-word head.

Shapes: B sentences, D hidden, C labels, V vocabulary. `*` stands for the tokens: (B, S) padded, or
(N) packed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.dropout import Dropout
from minibert.layout import Layout
from minibert.model import ACTIVATIONS, BertConfig, init_weights, layer_norm

POOLINGS = ("mean", "cls", "max")


def pool(hidden: Tensor, layout: Layout, pooling: str) -> Tensor:
    """One vector a sentence from one vector a token: (*, D) -> (B, D).

    "mean": the mean over the sentence's real tokens, [CLS] and [SEP] among them; padding never
    counts (Reimers and Gurevych 2019, section 3, arXiv:1908.10084). "cls": the first token's.
    "max": each dimension's largest. Raises ValueError for any other word.
    """
    if pooling == "mean":
        return layout.mean(hidden)
    if pooling == "cls":
        return layout.first(hidden)
    if pooling == "max":
        return layout.max(hidden)
    raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")


def normalize(vectors: Tensor) -> Tensor:
    """Scale each vector to length 1: (B, D) -> (B, D). A vector of zeros stays as it is."""
    return F.normalize(vectors, dim=-1)


class SentenceHead(nn.Module):
    """Scores for the labels of a sentence: pooling, dropout, one linear layer.

    pooling: "mean", "cls" or "max" as in `pool`, or "pooler": [CLS] through BERT's own pooler, as
    in Devlin et al. 2019, section 4.1.
    """

    def __init__(self, config: BertConfig, num_labels: int, pooling: str = "mean") -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        init_weights(self.classifier, config)

    def forward(self, hidden: Tensor, layout: Layout, pooler: nn.Module | None = None) -> Tensor:
        if self.pooling == "pooler":
            assert pooler is not None
            vectors = pooler(layout.first(hidden))  # (*, D) -> (B, D)
        else:
            vectors = pool(hidden, layout, self.pooling)  # (*, D) -> (B, D)
        return self.classifier(self.dropout(vectors))  # (B, D) -> (B, C)


class TokenHead(nn.Module):
    """Scores for the labels of each token: dropout, one linear layer (Devlin et al. 2019, section
    5.3)."""

    def __init__(self, config: BertConfig, num_labels: int) -> None:
        super().__init__()
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        init_weights(self.classifier, config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(self.dropout(hidden))  # (*, D) -> (*, C)


class MaskedWordHead(nn.Module):
    """Scores for which word stands at each token (Devlin et al. 2019, section 3.1, task 1).

    A layer of its own, then the product with each word's embedding, and a bias a word:
    `get_masked_lm_output` in the original's run_pretraining.py. The table of embeddings is passed
    in, so that it cannot become another one.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = layer_norm(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        init_weights(self.dense, config)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        x = self.norm(self.activation(self.dense(hidden)))  # (*, D)
        return F.linear(x, words, self.bias)  # (*, D), (V, D) -> (*, V)
