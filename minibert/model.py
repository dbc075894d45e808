"""BERT: every part, from the embeddings up to the whole encoder.

Sources: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers"
(arXiv:1810.04805). Its encoder is that of Vaswani et al. 2017, "Attention Is All You Need"
(arXiv:1706.03762). Layer norm: Ba et al. 2016 (arXiv:1607.06450).

Shapes: B sentences, S positions, N packed tokens, D hidden, F feed-forward, H heads, W width of a
        head (D = H * W), G sentences that share an attention call, L their common length. E is the
        embeddings' size, which is D but in ELECTRA.
        `*` stands for the tokens, as the layout arranges them: (B, S) padded, or (N) packed.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import ACTIVATIONS, BertConfig
from minibert.formats.pretrained import Pretrained
from minibert.layout import Layout, Padded


def embedding(rows: int, columns: int, padding_idx: int | None = None) -> nn.Embedding:
    """A table that `init_weights` or a checkpoint fills. nn.Embedding would fill it too: on the
    "meta" device, that imports 800 modules of PyTorch."""
    return nn.Embedding.from_pretrained(torch.empty(rows, columns), False, padding_idx)


class Embeddings(nn.Module):
    """What enters the first layer: word + token type + position, then a norm (Devlin, figure 2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        size = config.embedding_size or config.hidden_size
        # Looking up [PAD] gives its row no gradient: that is what padding_idx means. Weight decay
        # shrinks the row all the same, and a masked-word head, which multiplies by this table, does
        # give it a gradient.
        self.word = embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position = embedding(config.max_position_embeddings, size)  # learned, not sinusoids
        self.first_position = config.first_position  # 0; RoBERTa's is 2
        types = config.type_vocab_size  # 2; DistilBERT has none
        self.token_type = embedding(types, size) if types else None
        self.norm = nn.LayerNorm(size, config.layer_norm_eps)  # 1e-12; PyTorch's default is 1e-5
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # Only ELECTRA's embeddings may be narrower than its hidden states.
        differs = size != config.hidden_size
        self.project = nn.Linear(size, config.hidden_size) if differs else nn.Identity()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: Layout) -> Tensor:
        """(*) -> (*, D). Raises ValueError as `Bert.forward`, where shapes could broadcast too."""
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        for name, other in (("a mask or layout", layout), ("token_type_ids", token_type_ids)):
            if (found := tuple(other.shape)) != (wanted := tuple(input_ids.shape)):
                raise ValueError(f"input_ids {wanted} do not fit {name} of {found}")
        if layout.longest > (most := self.position.num_embeddings - self.first_position):
            raise ValueError(
                f"a sentence of {layout.longest} tokens is longer than the model's "
                f"{most} positions: truncate it"
            )
        x = self.word(input_ids)  # (*) -> (*, E)
        if self.token_type is not None:
            x = x + self.token_type(token_type_ids)  # (*, E)
        x = x + self.position(self.first_position + layout.positions)  # (*, E)
        return self.project(self.dropout(self.norm(x)))  # (*, E) -> (*, D)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Each token becomes a weighted mean of the values that it sees.

        attention(Q, K, V) = softmax(Q K^T / sqrt(W) + bias) V

    query, key, value: (G, H, L, W) float. mask: (G, L) bool, True for the keys that may be seen;
    a sentence without any gets 0. bias: added to the scores, of a shape that broadcasts to
    (G, H, L, L); BERT has none. dropout: the chance that a probability becomes 0.
    Returns (G, H, L, W). Source: Vaswani et al. 2017, equation 1; dropout as in Google's code.
    """
    # Scaling before the product, and not after it, keeps half precision from overflowing.
    scores = query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)  # (G, H, L, L)
    if bias is not None:
        scores = scores + bias  # (G, H, L, L)
    if mask is None:
        probabilities = scores.softmax(-1)  # (G, H, L, L)
    else:
        mask = mask[:, None, None, :]  # (G, L) -> (G, 1, 1, L): the same keys for each query
        # Here the padding mask meets the scores, and writes the dtype's smallest number, where
        # Google's code adds -10000. So exp(score - the row's largest) is exactly 0, also in half
        # precision. A row without keys is no NaN, and the product with the mask makes it 0.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # (G, H, L, L)
        probabilities = scores.softmax(-1) * mask  # (G, H, L, L)
    return F.dropout(probabilities, dropout) @ value  # (G, H, L, W) or (G, H, L, L) for one-hot


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2)."""

    attention = staticmethod(attention)  # an attribute, so that a subclass can have another

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.context(x, layout))  # (*, D) -> (*, D)

    def context(self, x: Tensor, layout: Layout) -> Tensor:
        """What each token gathers from its sentence by all heads: (*, D) -> (*, D)."""
        groups = layout.groups(*self.project(x))
        contexts = [self.attend(q, k, v, mask) for (q, k, v), mask in groups]
        context = layout.join(contexts)  # (*, H, W)
        return context.flatten(-2)  # (*, H, W) -> (*, D)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value of each head: (*, D) -> three (*, H, W)."""
        layers, heads = (self.query, self.key, self.value), (self.num_heads, -1)
        return tuple(layer(x).unflatten(-1, heads) for layer in layers)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention within each sentence of a group: three (G, L, H, W) -> (G, L, H, W)."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (G, H, L, W)
        dropout = self.dropout.p if self.training else 0.0
        context = self.attention(query, key, value, mask, dropout=dropout)  # (G, H, L, W)
        return context.transpose(1, 2)  # (G, H, L, W) -> (G, L, H, W)

    def probabilities(self, x: Tensor, mask: Tensor) -> Tensor:
        """How much each token attends to each other one: (B, S, D), (B, S) -> (B, H, S, S)."""
        query, key, _ = (y.transpose(1, 2) for y in self.project(x))  # (B, H, S, W)
        one_hot = torch.eye(x.size(1), dtype=x.dtype, device=x.device)  # (S, S)
        # The mean of one-hot values, weighted by the probabilities, is the probabilities.
        return attention(query, key, one_hot.expand(*query.shape[:2], -1, -1), mask)  # (B, H, S, S)


class FeedForward(nn.Module):
    """Two products with an activation between (Vaswani et al. 2017, section 3.3). BERT's activation
    is GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415).

        feed_forward(x) = gelu(x W_1 + b_1) W_2 + b_2
        gelu(x) = x Φ(x) = x (1 + erf(x / sqrt(2))) / 2
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.intermediate(x))  # (*, D) -> (*, F)
        return self.output(x)  # (*, F) -> (*, D)


class Layer(nn.Module):
    """Attention, then feed-forward, each with dropout, a residual sum and a norm, in this order:
    "post-norm", as in the original (Vaswani et al. 2017, section 3.1).

        x = norm(x + dropout(attention(x)))
        x = norm(x + dropout(feed_forward(x)))
        norm(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias

    Mean and variance are those of one token's D numbers (Ba et al. 2016, section 3).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, layout)))  # (*, D)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))  # (*, D)


class Pooler(nn.Module):
    """[CLS] through a dense layer and tanh, as next-sentence prediction was trained on it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return torch.tanh(self.dense(first))  # (B, D)


class Bert(Pretrained):
    """The encoder: token ids in, one vector for each token out.

    pooler: whether it has the pooler's weights too. Many checkpoints of sentence encoders do not.
    `Bert.from_pretrained` and `save_pretrained` are in formats/pretrained.py.
    """

    config_class = BertConfig
    kind = "Model"

    def __init__(self, config: BertConfig, pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if pooler else None
        self.apply(partial(init_weights, config=config))

    @classmethod
    def build(cls, config: BertConfig, names: set[str]) -> "Bert":
        return cls(config, pooler=any(name.startswith("pooler.") for name in names))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        layout: Layout | None = None,
    ) -> Tensor:
        """The last hidden state.

        input_ids: (B, S) int64. attention_mask: (B, S), non-zero for real tokens (default: all).
        token_type_ids: (B, S) int64, 0 for a pair's first text (default), 1 for its second.
        Returns (B, S, D) in the weights' dtype. The vectors at masked positions mean nothing.
        With `layout=Packed(lengths)` in the mask's place, ids and types are (N), the result (N, D).
        Raises ValueError for shapes that differ and sentences longer than the model's positions.
        """
        layout = layout or self.layout(input_ids, attention_mask)
        x = self.embeddings(input_ids, token_type_ids, layout)  # (*) -> (*, D)
        return self.run(x, layout)  # (*, D)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of word embeddings, by the name that it has in transformers."""
        return self.embeddings.word

    def layout(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Padded:
        """The layout of ids in rows, (B, S). Without a mask, all tokens are real."""
        layout = Padded(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        counts_from_padding = self.config.first_position and not torch.compiler.is_compiling()
        if counts_from_padding and (layout.mask[:, 1:] > layout.mask[:, :-1]).any():
            raise ValueError("a RoBERTa's padding must follow the text, not stand before it")
        return layout

    def run(self, x: Tensor, layout: Layout, first: int = 0, last: int | None = None) -> Tensor:
        """Layers `first` up to, but not including, `last` (all, if left out): (*, D) -> (*, D)."""
        for layer in self.layers[first:last]:
            x = layer(x, layout)  # (*, D)
        return x

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        layout: Layout | None = None,
    ) -> list[Tensor]:
        """The embeddings' output, then each layer's. Arguments and shapes as in `forward`."""
        layout = layout or self.layout(input_ids, attention_mask)
        states = [self.embeddings(input_ids, token_type_ids, layout)]
        for i in range(len(self.layers)):
            states.append(self.run(states[-1], layout, i, i + 1))  # (*, D)
        return states

    def attention_probabilities(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> list[Tensor]:
        """Each layer's attention probabilities, (B, H, S, S) each. Arguments as in `forward`."""
        mask = self.layout(input_ids, attention_mask).mask  # (B, S)
        states = self.hidden_states(input_ids, mask, token_type_ids)
        attentions = [part for part in self.modules() if isinstance(part, Attention)]
        return [a.probabilities(x, mask) for a, x in zip(attentions, states, strict=False)]


def init_weights(module: nn.Module, config: BertConfig) -> None:
    """Random initial weights: normal with std `initializer_range`; biases and [PAD]'s row are 0.

    Google's code cuts the normal distribution at two deviations; we, like transformers, do not.
    """
    if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=config.initializer_range)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
