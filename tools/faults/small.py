"""A BERT of random weights, so small that a case takes milliseconds, and a few texts."""

from pathlib import Path

import tokenizers
import torch
from tokenizers.normalizers import BertNormalizer

from minibert import Bert, BertConfig, SentenceEncoder
from minibert.formats.tokenizer import SPECIAL_TOKENS, bert_tokenizer, special_tokens
from minibert.tokenizer import Tokenizer

WORDS = "the a film play rain good bad oslo rome anna new york in to with ##s ##ing . , ? day song"
TEXTS = ("Rain in Oslo.", "the good film", "a song with Anna", "", "New York, new day!", "plays")


def write_small_encoder(folder: Path, backend: tokenizers.Tokenizer | None = None) -> None:
    """Save a SentenceEncoder with all files that sentence-transformers has. backend: its tokenizer,
    if it is not BERT's."""
    if backend is None:
        ids = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *WORDS.split()))}
        backend = bert_tokenizer(ids, BertNormalizer(lowercase=True))
    config = BertConfig(
        vocab_size=1 + max(backend.get_vocab().values()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    torch.manual_seed(7)
    SentenceEncoder(
        Bert(config, pooler=True), Tokenizer(backend, 32, special_tokens(backend))
    ).save_pretrained(folder)
