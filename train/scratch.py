"""A new encoder with random weights: from a config, or from a few sizes."""

import os
from pathlib import Path
from typing import Any

import torch

from minibert.config import BertConfig
from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.formats.config import read_config
from minibert.formats.families import FAMILIES
from minibert.model import Bert
from minibert.tokenizer import Tokenizer
from train.parse import parse_pairs, parse_whole

HEAD_WIDTH = 64  # of the published models
SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


def is_new(model: str) -> bool:
    """Whether `settings.model` asks for random weights: it names a config's file, or has sizes, and
    is not the name of a folder."""
    is_folder = os.path.isdir(os.path.expanduser(model))
    return not is_folder and (model.endswith(".json") or "=" in model)


def new_encoder(
    model: str,
    tokenizer_folder: str | None,
    *,
    max_length: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SentenceEncoder:
    """An encoder whose weights are drawn from PyTorch's generator.

    model: a config.json; or sizes by its names, such as "num_hidden_layers=4, hidden_size=256", of
    which the rest follow: heads 64 wide, a feed-forward four times as wide as the hidden states,
    and the vocabulary's size and padding. tokenizer_folder: that of the config, if None.
    Raises InputError for sizes that no BERT has, and where there is no vocabulary.
    """
    is_file = model.endswith(".json")
    file = Path(os.path.expanduser(model))
    if tokenizer_folder is None and not is_file:
        raise InputError(
            f"model = {model!r}: random weights need a vocabulary: --tokenizer FOLDER; "
            "python -m train.vocabulary makes one"
        )
    folder = Path(os.path.expanduser(tokenizer_folder)) if tokenizer_folder else file.parent
    if is_file:
        config = read_config(file, BertConfig)
        tokenizer = Tokenizer.from_folder(folder, config.vocab_size)
    else:
        tokenizer = Tokenizer.from_folder(folder)
        config = config_of(model, tokenizer)
    padding = tokenizer.special_id("pad")
    if padding != config.pad_token_id:  # whose embedding stays 0 and never learns
        name = tokenizer.special.get("pad", "[PAD]")
        raise InputError(
            f"model = {model!r}: its pad_token_id is {config.pad_token_id}, and in the vocabulary "
            f"of {folder}, {name} is {'missing' if padding is None else padding}"
        )
    bert = Bert(config, FAMILIES[config.model_type].has("pooler")).to(device, dtype)
    return SentenceEncoder(bert, tokenizer, max_length=max_length)


def config_of(sizes: str, tokenizer: Tokenizer) -> BertConfig:
    """The config of some sizes and a vocabulary. Raises InputError, naming one, for what is no size
    of a BERT."""
    given: dict[str, Any] = {}
    for name, value in parse_pairs(sizes, "model").items():
        if name not in SIZES:
            raise InputError(f"model = {sizes!r}: {name} is no size; sizes are {', '.join(SIZES)}")
        if (number := parse_whole(value)) is None:
            raise InputError(f"model = {sizes!r}: {name} = {value} is no whole number")
        given[name] = number
    hidden = given.get("hidden_size", BertConfig.hidden_size)
    follow = {
        "vocab_size": tokenizer.vocab_size,
        "pad_token_id": tokenizer.special_id("pad") or 0,
        "num_attention_heads": max(1, hidden // HEAD_WIDTH),
        "intermediate_size": 4 * hidden,
    }
    try:
        return BertConfig(**(follow | given))
    except ValueError as error:
        raise InputError(f"model = {sizes!r}: {error}") from error
