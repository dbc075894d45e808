"""A sentence encoder as one ONNX graph, which onnxruntime and servers run without PyTorch.

Shapes: B texts, S positions, E numbers of a vector.
"""

import copy
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.encoder import SentenceEncoder
from minibert.files import InputError, replacing
from minibert.heads import normalize, pool
from minibert.layout import Padded
from minibert.model import Attention

OPSET = 17  # of the operators; onnxruntime has known it since 1.12, of 2022
BOUND = 1e-4  # on the difference of a number of a vector, as a part of the largest
WORDS = ("a", "of", "token", "sentence", "number", "export", "graph", "vector", "2024", "naïve")


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`minibert.model.attention` in evaluation, by PyTorch's own function, whose graph has no
    operator for dropout."""
    assert mask is not None  # padded rows have one
    return F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])


def in_float32(encoder: SentenceEncoder) -> SentenceEncoder:
    """The encoder with weights and products in float32, which onnxruntime has all operators for."""
    bert = encoder.bert
    if bert.dtype != torch.float32:
        bert = copy.deepcopy(bert).float()
    return SentenceEncoder(bert, encoder.tokenizer, encoder.settings, after=encoder.after)


class Graph(nn.Module):
    """Token ids in, sentence vectors out: what `encode` computes after the tokenizer."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.bert = copy.deepcopy(encoder.bert)
        for part in self.bert.modules():
            if isinstance(part, Attention):
                part.attention = fused_attention
        self.after = nn.Sequential(*encoder.after)  # all texts at once
        self.settings, self.dim = encoder.settings, encoder.dim()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        hidden = self.bert(input_ids, attention_mask, token_type_ids)
        vectors = self.after(pool(hidden, Padded(attention_mask), self.settings.pooling))
        if self.settings.normalize:
            vectors = normalize(vectors)
        return vectors[:, : self.dim]


def export_onnx(encoder: SentenceEncoder, target: str | PathLike[str]) -> float:
    """Write an encoder, its pooling, the layers after it and its normalisation as one ONNX graph.

    The graph's inputs are input_ids, attention_mask and, where the model has several token types,
    token_type_ids: (B, S) int64 each, of any B and S. Its output sentence_embedding is (B, E). It
    computes in float32, whatever the encoder's dtype and precision. The tokenizer and the prompts
    are not in it.
    Returns the largest difference between its vectors, computed by onnxruntime for texts of several
    lengths, and those of `encode`. Raises InputError if onnxruntime is missing, if that difference
    is more than rounding, or if the disk refuses; the target is then unchanged.
    """
    try:
        import onnx  # noqa: F401, which PyTorch's export imports
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed, which an export needs: pip install onnx onnxruntime "
            "(the extra `onnx` of this package)"
        ) from error
    encoder, target = in_float32(encoder), Path(target)
    if target.suffix != ".onnx":
        raise InputError(f"{target}: the name of an ONNX file must end in .onnx")
    graph, inputs = Graph(encoder).eval(), inputs_for(encoder, [["a"], list(WORDS)])
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs}
    with replacing(target) as beside:
        with warnings.catch_warnings():  # of what is fixed: the sizes of the model
            warnings.simplefilter("ignore")
            # By tracing, which every version of PyTorch can do without further packages.
            torch.onnx.export(
                graph,
                tuple(inputs.values()),
                str(beside),
                input_names=list(inputs),
                output_names=["sentence_embedding"],
                dynamic_axes=axes | {"sentence_embedding": {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
        session = onnxruntime.InferenceSession(beside, providers=["CPUExecutionProvider"])
        return check_vectors(session, encoder, target)


def check_vectors(session: Any, encoder: SentenceEncoder, target: Path) -> float:
    """The largest difference between a graph's vectors and those of `encode`. Raises InputError if
    it is more than rounding. session: an onnxruntime.InferenceSession of the graph."""
    limit = encoder.tokenizer.max_length or encoder.bert.config.most_tokens
    texts = [[WORDS[i % len(WORDS)] for i in range(count)] for count in (0, 1, 5, 20, limit)]
    wanted = encoder.encode([" ".join(words) for words in texts], prompt="", truncation="silent")
    batches = [texts, *([words] for words in texts)]  # all at once, padded; and each alone
    found = []
    for batch in batches:
        inputs = {name: ids.cpu().numpy() for name, ids in inputs_for(encoder, batch).items()}
        found += session.run(None, inputs)
    difference = float(np.abs(np.concatenate(found) - np.tile(wanted, (2, 1))).max())
    if not difference <= BOUND * np.abs(wanted).max():
        raise InputError(
            f"{target} is not written: its vectors would differ from ours by up to {difference:.1e}"
        )
    return difference


def inputs_for(encoder: SentenceEncoder, texts: list[list[str]]) -> dict[str, Tensor]:
    """The graph's inputs for texts of words: ids and mask, padded, and the types."""
    tokens = encoder.tokenizer.encode([" ".join(words) for words in texts], "silent")
    longest = max(len(one.ids) for one in tokens)
    config = encoder.bert.config
    shape, device = (len(texts), longest), encoder.bert.device
    ids = torch.full(shape, config.pad_token_id, device=device)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(tokens):
        ids[row, : len(one.ids)] = torch.tensor(one.ids, device=device)
        mask[row, : len(one.ids)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | (
        {"token_type_ids": torch.zeros_like(ids)} if config.type_vocab_size > 1 else {}
    )
