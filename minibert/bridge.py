"""A SentenceTransformer whose first module is our BERT, for the libraries that ask for one.

Shapes: B texts, S positions, N packed tokens, D hidden.
"""

from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minibert.after import AfterPooling, Dense
from minibert.files import InputError
from minibert.formats.sentence_transformers import EncoderSettings, write_transformer_settings
from minibert.formats.tokenizer import common_settings
from minibert.layout import Packed
from minibert.model import Bert
from minibert.texts import check_texts
from minibert.tokenizer import Tokenizer
from minibert.vectors import in_float32


def as_sentence_transformer(
    bert: Bert,
    tokenizer: Tokenizer,
    settings: EncoderSettings,
    after: AfterPooling,
    bfloat16: bool = False,
) -> Any:
    """A `sentence_transformers.SentenceTransformer` (version 5 or 6) of our model and settings.

    It shares the weights of `bert` and `after`: whatever trains the one trains the other. What it
    saves is the folder that both libraries open. bfloat16: multiply in bfloat16, by autocast.
    Raises InputError if sentence-transformers is not installed, and for what it cannot compute.
    """
    try:
        from sentence_transformers import SentenceTransformer, __version__
        from transformers import PreTrainedTokenizerFast

        try:
            from sentence_transformers.sentence_transformer import modules
        except ModuleNotFoundError:  # version 5
            import sentence_transformers.models as modules  # type: ignore[no-redef]
    except ImportError as error:
        raise InputError(
            f"to_sentence_transformers needs a package that cannot be imported ({error}): "
            "pip install 'sentence-transformers>=5'"
        ) from error
    poolings = settings.pooling.split("+")
    if int(__version__.partition(".")[0]) < 6:
        check_version_5(poolings, settings.include_prompt)
    if len(after) and bert.dtype != torch.float32:
        raise InputError(
            f"a SentenceTransformer has one dtype, and this model has {bert.dtype} with layers in "
            "float32 after its pooling: load it with dtype float32"
        )
    own = tokenizer.limited()  # whose limit can be set without changing that of others
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=own.backend,
        **common_settings(own.max_length, own.special, bert.config.type_vocab_size > 1),
    )
    parts = [
        Transformer(bert, own, theirs, bfloat16),
        modules.Pooling(
            bert.config.hidden_size,
            pooling_mode=poolings if len(poolings) > 1 else poolings[0],
            include_prompt=settings.include_prompt,
        ),
        *(theirs_of(layer, modules) for layer in after),
    ]
    return SentenceTransformer(
        modules=[*parts, modules.Normalize()] if settings.normalize else parts,
        device=str(bert.device),
        prompts=dict(settings.prompts),
        default_prompt_name=settings.default_prompt_name,
        similarity_fn_name=settings.similarity,
        truncate_dim=settings.truncate_dim,
    )


def check_version_5(poolings: list[str], include_prompt: bool) -> None:
    """Raise InputError for poolings that sentence-transformers computes since version 6 only."""
    reason = None
    if len(poolings) > 1:
        reason = f"poolings joined in this way ({'+'.join(poolings)})"
    elif poolings == ["cls"] and not include_prompt:
        reason = "pooling cls with include_prompt false, for which version 5 takes [CLS]"
    if reason is not None:
        raise InputError(f"a SentenceTransformer needs sentence-transformers 6 for {reason}")


def theirs_of(layer: nn.Module, modules: Any) -> Any:
    """Their module of a layer after the pooling, with the layer's own weights."""
    theirs: Any
    if isinstance(layer, Dense):
        linear = layer.linear
        sizes = linear.in_features, linear.out_features, linear.bias is not None
        theirs = modules.Dense(*sizes, activation_function=layer.activation)
        theirs.linear = linear
    else:
        assert isinstance(layer, nn.LayerNorm)
        theirs = modules.LayerNorm(layer.normalized_shape[0])
        theirs.norm = layer
    return theirs


class Transformer(nn.Module):
    """Texts to the last hidden state of each token, as the first module of a SentenceTransformer.

    tokenizer: theirs, for those who count tokens with it; the texts pass through ours. autocast:
    multiply in bfloat16.
    """

    save_in_root = True

    def __init__(self, bert: Bert, ours: Tokenizer, tokenizer: Any, autocast: bool) -> None:
        super().__init__()
        self.bert, self.ours, self.tokenizer, self.autocast = bert, ours, tokenizer, autocast

    @property
    def max_seq_length(self) -> int | None:
        return self.ours.max_length

    @max_seq_length.setter
    def max_seq_length(self, limit: int | None) -> None:
        self.ours.max_length = limit

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Padded ids and mask, (B, S), and how many tokens the prompt has."""
        check_texts(inputs)
        prompt = prompt or ""
        tokens = self.ours.encode([prompt + text for text in inputs], "silent")
        ids = [torch.tensor(one.ids) for one in tokens]
        ones = [torch.ones_like(row) for row in ids]
        padding = self.bert.config.pad_token_id
        features: dict[str, Any] = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
            "attention_mask": pad_sequence(ones, batch_first=True),
        }
        if prompt:
            features["prompt_length"] = len(self.ours.tokenize([prompt])[0].ids) - 1  # no [SEP]
        return features

    tokenize = preprocess  # its name before version 6

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        mask: Tensor = features["attention_mask"].bool()  # (B, S)
        layout = Packed(mask.sum(1).tolist(), mask.device)
        products = torch.autocast(mask.device.type, torch.bfloat16)
        with products if self.autocast else nullcontext():  # which leaves a caller's own autocast
            hidden = in_float32(self.bert(features["input_ids"][mask], layout=layout))  # (N, D)
        padded = hidden.new_zeros(*mask.shape, hidden.size(-1))  # (B, S, D)
        padded[mask] = hidden
        return features | {"token_embeddings": padded}

    def save(self, folder: str | PathLike[str], *_: Any, **__: Any) -> None:
        """Write the model's own files."""
        self.bert.save_pretrained(folder)
        self.ours.save(Path(folder), self.bert.config.type_vocab_size > 1)
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
