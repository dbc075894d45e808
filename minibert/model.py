"""BERT, from the embeddings up to the whole encoder.

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers"
(arXiv:1810.04805), whose encoder is that of Vaswani et al. 2017, "Attention Is All You Need"
(arXiv:1706.03762).

Shapes: B sentences, S positions, N packed tokens, D hidden, H heads, W width of a head (D = H * W),
        F feed-forward. `*` stands for however the layout lays out tokens: (B, S) padded, or (N)
        packed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.dropout import Dropout
from minibert.formats.checkpoint import load_model, save_model
from minibert.formats.hub import find_model
from minibert.formats.names import checkpoint_name
from minibert.layout import Layout, Padded

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # exact, x * Phi(x): Hendrycks and Gimpel 2016 (arXiv:1606.08415)
    "gelu_new": partial(F.gelu, approximate="tanh"),  # the approximation in Google's original code
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),  # the same under its newer name
    "relu": F.relu,
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes and constants of a BERT, by the names of the original `config.json`. Defaults:
    bert-base-uncased.

    Raises ValueError, naming the field, for a value that no BERT can have.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        )
        for field in (*sizes, "num_hidden_layers", "type_vocab_size"):
            value = getattr(self, field)
            if type(value) is not int or not 0 < value < 2**31:
                raise ValueError(f"{field} must be a positive whole number, not {value!r}")
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, field)
            if type(value) not in (int, float) or not 0 <= value < 1:
                raise ValueError(f"{field} must be a number from 0 to below 1, not {value!r}")
        for field in ("layer_norm_eps", "initializer_range"):
            value = getattr(self, field)
            if type(value) not in (int, float) or not 0 < value < 1:
                raise ValueError(f"{field} must be a number between 0 and 1, not {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}"
            )
        if type(self.pad_token_id) is not int or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id {self.pad_token_id!r} is not an id of the {self.vocab_size} words"
            )


def layer_norm(config: BertConfig) -> nn.LayerNorm:
    """A layer norm over the hidden size (Ba et al. 2016, arXiv:1607.06450).

    The config's epsilon everywhere: 1e-12 in BERT, where PyTorch's own default is 1e-5.
    """
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def embedding(rows: int, columns: int, padding_idx: int | None = None) -> nn.Embedding:
    """A table that `init_weights` or a checkpoint will fill; nn.Embedding's own constructor draws
    it twice over."""
    return nn.Embedding.from_pretrained(
        torch.empty(rows, columns), freeze=False, padding_idx=padding_idx
    )


class Embeddings(nn.Module):
    """What enters the first layer: word + token type + position, normed (Devlin et al. 2019, figure
    2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word = embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        # learnt, not sinusoids
        self.position = embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = embedding(config.type_vocab_size, config.hidden_size)
        self.norm = layer_norm(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None, positions: Tensor
    ) -> Tensor:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        x = self.word(input_ids) + self.token_type(token_type_ids)  # (*) -> (*, D)
        x = x + self.position(positions)  # (*, D)
        return self.dropout(self.norm(x))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout_prob = config.attention_probs_dropout_prob

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        query = self._split(self.query(x))  # (*, D) -> (*, H, W)
        key = self._split(self.key(x))  # (*, D) -> (*, H, W)
        value = self._split(self.value(x))  # (*, D) -> (*, H, W)
        context = layout.attend(
            query, key, value, self.dropout_prob if self.training else 0.0
        )  # (*, H, W)
        return self.output(context.flatten(-2))  # (*, H, W) -> (*, D)

    def probabilities(self, x: Tensor, layout: Padded) -> Tensor:
        """Where the heads look: (B, S, D) -> (B, H, S, S), by the explicit path and without
        dropout."""
        return layout.attention_probabilities(
            self._split(self.query(x)), self._split(self.key(x))
        )  # (B, H, S, S)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))  # (*, D) -> (*, H, W)


class FeedForward(nn.Module):
    """Two products with an activation between them, token by token (Vaswani et al. 2017, section
    3.3)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.intermediate(x))  # (*, D) -> (*, F)
        return self.output(x)  # (*, F) -> (*, D)


class Layer(nn.Module):
    """Attention, then feed-forward, each with dropout, a residual sum and a norm.

    Post-norm, as in the original: the norm follows the sum (Vaswani et al. 2017, section 3.1).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = layer_norm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = layer_norm(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, layout)))  # (*, D)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))  # (*, D)


class Pooler(nn.Module):
    """[CLS], through a dense layer and tanh: what next-sentence prediction was trained on, not a
    sentence vector."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return torch.tanh(self.dense(first))  # (B, D)


class Bert(nn.Module):
    """The encoder: token ids in, one vector a token out.

    pooler: whether to have the pooler's weights too; many checkpoints of sentence encoders have
    none.
    """

    def __init__(self, config: BertConfig, pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if pooler else None
        self.apply(partial(init_weights, config=config))

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Bert":
        """The encoder of a checkpoint, in eval mode, with its weights in `dtype`.

        name: a folder, "minilm", or a Hub id (with the branch, tag or commit `revision`). Raises
        InputError, naming file and tensor, if the model cannot be had or is not a complete BERT.
        """

        def build(config: BertConfig, names: set[str]) -> "Bert":
            return cls(config, pooler=any(name.startswith("pooler.") for name in names))

        return load_model(find_model(name, revision).path, BertConfig, build, dtype)[0]

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write config.json and model.safetensors, as `transformers.AutoModel` opens them.

        Raises InputError if the disk refuses; files that were there before are whole in any case.
        """
        tensors = {checkpoint_name(name): parameter for name, parameter in self.named_parameters()}
        save_model("BertModel", self.config, tensors, Path(folder))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """The last hidden state.

        input_ids: (B, S) int64. attention_mask: (B, S), non-zero for real tokens; left out, all are
        real. token_type_ids: (B, S) int64, 0 for a pair's first text and 1 for its second; left
        out, all are 0. Returns (B, S, D) in the weights' dtype; what stands at masked positions
        means nothing. Packed: ids of shape (N), and the layout `Packed(lengths)` in the mask's
        place; returns (N, D). Raises ValueError if mask and ids differ in shape, or a sentence is
        longer than the model has positions.
        """
        layout = self._layout(input_ids, attention_mask)
        x = self.embeddings(input_ids, token_type_ids, layout.positions)  # (*) -> (*, D)
        for layer in self.layers:
            x = layer(x, layout)  # (*, D)
        return x

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
    ) -> list[Tensor]:
        """What leaves the embeddings, then what leaves each layer. Arguments and shapes as in
        `forward`."""
        layout = self._layout(input_ids, attention_mask)
        states = [self.embeddings(input_ids, token_type_ids, layout.positions)]
        for layer in self.layers:
            states.append(layer(states[-1], layout))
        return states

    def attention_probabilities(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> list[Tensor]:
        """Where each layer looks: a (B, H, S, S) each, rows summing to 1. Arguments as in
        `forward`, padded only."""
        layout = Padded(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        states = self.hidden_states(input_ids, layout, token_type_ids)[:-1]
        attentions = [cast(Layer, layer).attention for layer in self.layers]
        return [
            attention.probabilities(x, layout)
            for attention, x in zip(attentions, states, strict=True)
        ]

    def _layout(self, input_ids: Tensor, attention_mask: Tensor | Layout | None) -> Layout:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        layout = Padded(attention_mask) if isinstance(attention_mask, Tensor) else attention_mask
        # which would broadcast, and give other numbers without a word
        if layout.shape != input_ids.shape:
            raise ValueError(
                f"input_ids {tuple(input_ids.shape)} do not fit a mask or layout of {tuple(layout.shape)}"
            )
        if layout.longest > self.config.max_position_embeddings:
            raise ValueError(
                f"a sentence of {layout.longest} tokens is longer than the model's "
                f"{self.config.max_position_embeddings} positions: truncate it"
            )
        return layout


def init_weights(module: nn.Module, config: BertConfig) -> None:
    """What a model starts from when it loads no weights: normal with std 0.02, biases 0 (the
    original's `create_initializer`, without its cut at two standard deviations)."""
    if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=config.initializer_range)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
