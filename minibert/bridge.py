"""A SentenceTransformer whose first module is our BERT, for the libraries that ask for one.

Shapes: B texts, S positions, N packed tokens, D hidden.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.files import InputError
from minibert.formats.sentence_transformers import EncoderSettings, write_transformer_settings
from minibert.layout import Packed
from minibert.model import Bert
from minibert.tokenizer import Tokenizer


def as_sentence_transformer(bert: Bert, tokenizer: Tokenizer, settings: EncoderSettings) -> Any:
    """A `sentence_transformers.SentenceTransformer` (version 5 or 6) of our model and settings.

    It shares `bert`: whatever trains the one trains the other. What it saves is the folder that
    both libraries open. Raises InputError if sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from transformers import PreTrainedTokenizerFast

        try:
            from sentence_transformers.sentence_transformer import modules
        except ModuleNotFoundError:  # version 5
            from sentence_transformers import models as modules  # type: ignore[attr-defined,no-redef]
    except ImportError as error:
        raise InputError(
            f"to_sentence_transformers needs a package that cannot be imported ({error}): "
            "pip install 'sentence-transformers>=5'"
        ) from error
    size = bert.config.hidden_size
    pooling = modules.Pooling(
        size, pooling_mode=settings.pooling, include_prompt=settings.include_prompt
    )
    own = tokenizer.limited()  # whose limit can be set without changing that of others
    first, *_, last = own.backend.encode("").tokens  # [CLS] [SEP]
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=own.backend,
        model_max_length=own.max_length,
        cls_token=first,
        sep_token=last,
        pad_token=own.token(bert.config.pad_token_id),
    )
    parts = [Transformer(bert, own, theirs), pooling]
    return SentenceTransformer(
        modules=[*parts, modules.Normalize()] if settings.normalize else parts,
        device=str(bert.device),
        prompts=dict(settings.prompts),
        default_prompt_name=settings.default_prompt_name,
        similarity_fn_name=settings.similarity,
        truncate_dim=settings.truncate_dim,
    )


class Transformer(nn.Module):
    """Texts to the last hidden state of each token, as the first module of a SentenceTransformer.

    tokenizer: theirs, for those who count tokens with it; the texts pass through ours.
    """

    save_in_root = True

    def __init__(self, bert: Bert, ours: Tokenizer, tokenizer: Any) -> None:
        super().__init__()
        self.bert, self.ours, self.tokenizer = bert, ours, tokenizer

    @property
    def max_seq_length(self) -> int | None:
        return self.ours.max_length

    @max_seq_length.setter
    def max_seq_length(self, limit: int | None) -> None:
        self.ours.max_length = limit

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Padded ids and mask, (B, S), and how many tokens the prompt has."""
        prompt = prompt or ""
        tokens = self.ours.encode([prompt + text for text in inputs], "silent")
        ids = [torch.tensor(one.ids) for one in tokens]
        ones = [torch.ones_like(row) for row in ids]
        features: dict[str, Any] = {
            "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True),
            "attention_mask": nn.utils.rnn.pad_sequence(ones, batch_first=True),
        }
        if prompt:
            features["prompt_length"] = len(self.ours.tokenize([prompt])[0].ids) - 1  # no [SEP]
        return features

    tokenize = preprocess  # its name before version 6

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        mask: Tensor = features["attention_mask"].bool()  # (B, S)
        layout = Packed(mask.sum(1).tolist(), mask.device)
        hidden = self.bert(features["input_ids"][mask], layout=layout)  # (N, D)
        padded = hidden.new_zeros(*mask.shape, hidden.size(-1))  # (B, S, D)
        padded[mask] = hidden
        return features | {"token_embeddings": padded}

    def save(self, folder: str | PathLike[str], *_: Any, **__: Any) -> None:
        """Write the model's own files."""
        self.bert.save_pretrained(folder)
        self.ours.save(Path(folder))
        write_transformer_settings(self.ours.max_length, Path(folder))

    def __reduce__(self) -> tuple[Any, ...]:
        # By its own name, pickle would look for their class.
        return _restore, (vars(self),)


# What is saved names this module in modules.json. Theirs opens it, and needs no minibert then.
Transformer.__module__ = "sentence_transformers.models.Transformer"


def _restore(state: dict[str, Any]) -> Transformer:
    module = Transformer.__new__(Transformer)
    module.__dict__.update(state)
    return module
