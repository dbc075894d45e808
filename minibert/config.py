"""The config of a BERT: its sizes and constants."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from minibert.formats.config import check_config, config_content
from minibert.formats.families import FAMILIES

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # exact, x * Phi(x): Hendrycks and Gimpel 2016 (arXiv:1606.08415)
    "gelu_new": partial(F.gelu, approximate="tanh"),  # the approximation in Google's original code
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),  # the same under its newer name
    "relu": F.relu,
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes and constants of a BERT, by their names in config.json. Default: bert-base-uncased.

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
    embedding_size: int | None = None  # ELECTRA's embeddings may be narrower than hidden_size
    model_type: str = "bert"  # or a relative, as formats/families.py lists them

    def __post_init__(self) -> None:
        check_config(self, ACTIVATIONS)

    @property
    def first_position(self) -> int:
        """The first token's row in the table of positions: 0, but RoBERTa counts from the id of
        padding on.

        transformers counts RoBERTa's positions over ids that are no padding. That is the same
        where padding follows a text. Padding before a text is refused; a literal "<pad>" within one
        counts here as any token.
        """
        counts = FAMILIES[self.model_type].counts_from_padding
        return self.pad_token_id + 1 if counts else 0

    @property
    def most_tokens(self) -> int:
        """How many tokens a text may have."""
        return self.max_position_embeddings - self.first_position

    def to_dict(self) -> dict[str, Any]:
        """The entries of config.json, as the family's files name them."""
        return config_content(self)
