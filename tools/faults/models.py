"""The files of a model, and texts, as strangers give them."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import tokenizers
import torch
from safetensors import safe_open
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import UnigramTrainer

from minibert import SentenceEncoder
from minibert.__main__ import main
from minibert.after import AfterPooling, Dense
from minibert.formats.tokenizer import readable
from tools.faults.fuzz import Kind
from tools.faults.mutate import (
    VALUES,
    Mutator,
    mutate_bytes,
    mutate_json,
    mutate_safetensors,
    mutate_text,
)
from tools.faults.parts import exchange_parts
from tools.faults.small import TEXTS, write_small_encoder

SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"


def write_whole_encoder(folder: Path) -> None:
    """A small encoder with every file of sentence-transformers, layers after the pooling too, and
    links to nowhere and to a device."""
    write_small_encoder(folder)
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    after = AfterPooling(Dense(16, 8, True, torch.nn.Tanh()), torch.nn.LayerNorm(8))
    SentenceEncoder(
        encoder.bert, encoder.tokenizer, after=after, normalize=True, prompts={"query": "a "}
    ).save_pretrained(folder)
    add_links(folder)


def write_sharded_encoder(folder: Path) -> None:
    """A small encoder whose weights an index lists."""
    write_small_encoder(folder)
    (folder / "model.safetensors").rename(folder / SHARD)
    with safe_open(folder / SHARD, framework="pt") as tensors:
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors.keys(), SHARD)}
    (folder / INDEX).write_text(json.dumps(index))
    add_links(folder)


def add_links(folder: Path) -> None:
    """Links that a changed file may name: to itself, and to a device."""
    (folder / "loop").symlink_to("loop")
    (folder / "zero").symlink_to("/dev/zero")


def write_vocabulary_encoder(folder: Path) -> None:
    """A small encoder as of 2019: vocab.txt and added_tokens.json, and no tokenizer.json."""
    write_small_encoder(folder)
    (folder / "tokenizer.json").unlink()
    *words, last = (folder / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({last: len(words)}))


def write_byte_level_encoder(folder: Path) -> None:
    """A small encoder with a byte-level tokenizer, as RoBERTa's."""
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS * 5, 270, special_tokens=special, show_progress=False)
    backend = tokenizers.Tokenizer.from_str(trained.to_str())
    backend.post_processor = around_texts()
    write_small_encoder(folder, backend)


def write_unigram_encoder(folder: Path) -> None:
    """A small encoder with a Unigram tokenizer, as XLM-R's."""
    backend = tokenizers.Tokenizer(Unigram())
    backend.pre_tokenizer, backend.decoder = Metaspace(), MetaspaceDecoder()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = UnigramTrainer(
        vocab_size=40, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    backend.post_processor = around_texts()
    write_small_encoder(folder, backend)


def around_texts() -> TemplateProcessing:
    """RoBERTa's special tokens around a text and a pair."""
    return TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )


def use(folder: Path) -> object:
    """Open the encoder in a folder, use its tokenizer in every way, encode a few texts, and save
    it."""
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    tokenizer = encoder.tokenizer
    tokenizer.encode_pairs([(text, TEXTS[0]) for text in TEXTS], "silent")
    words = [text.split() for text in TEXTS]
    tokenizer.encode_words(words, "silent")
    tokenizer.encode_windows(words, 2, "words")
    for token in tokenizer.backend.get_vocab():
        readable(token, tokenizer.backend)
    encoder.save_pretrained(folder / "saved")
    return encoder.encode(TEXTS)


def kind(name: str, mutators: dict[str, Mutator], make: Callable[[Path], None]) -> Kind:
    """Files of an encoder's folder are changed, and the encoder opened and used."""
    return Kind(name, make, mutators, use)


SENTENCE_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "3_LayerNorm/config.json",
)


def write_texts(folder: Path) -> None:
    """A small encoder, and a file of texts."""
    write_small_encoder(folder)
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")


def mutate_texts(content: bytes, dice: random.Random) -> bytes:
    """Puts what readers stumble over into texts, sometimes very often."""
    odd = dice.choice((*ODD_TEXTS, *(value for value in VALUES if isinstance(value, str))))
    lines = content.split(b"\n")
    i = dice.randrange(len(lines))
    match dice.randrange(4):
        case 0:
            return mutate_bytes(content, dice)
        case 1:
            return mutate_text(content, dice)
        case 2:
            lines[i] += odd.encode("utf-8", "surrogatepass") * dice.choice((1, 2, 1000))
        case _:
            lines[i] = odd.encode("utf-8", "surrogatepass") * dice.choice((1, 50_000))
    return b"\n".join(lines)


ODD_TEXTS = (
    "[MASK]", "[CLS][SEP]", "\u0301", "\u0627\u0644", "\u202e\u2066", "\U0001f469\u200d", "\ufdfa",
    "\u4f60", "##a", "x", "\u0e01\u0e33", "\udcff", "\r", "\U0010ffff",
)  # fmt: skip


def use_texts(folder: Path) -> object:
    """Encode the texts by the command line and by the library."""
    file, output = folder / "texts.txt", folder / "vectors.npy"
    arguments = ["encode", "--model", str(folder), "--input", str(file), "--output", str(output)]
    code = main(arguments)
    assert code in (0, 2), code
    texts = file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    assert main(["similarity", "--model", str(folder), "--", *texts]) in (0, 2)
    return SentenceEncoder.from_pretrained(folder, device="cpu").encode(texts)


KINDS = (
    kind("safetensors", {"model.safetensors": mutate_safetensors}, write_small_encoder),
    kind("config.json", {"config.json": mutate_json}, write_small_encoder),
    kind("tokenizer.json", {"tokenizer.json": exchange_parts}, write_small_encoder),
    kind("tokenizer.json, bytes", {"tokenizer.json": exchange_parts}, write_byte_level_encoder),
    kind("tokenizer.json, unigram", {"tokenizer.json": exchange_parts}, write_unigram_encoder),
    kind(
        "vocab.txt",
        {
            "vocab.txt": mutate_text,
            "added_tokens.json": mutate_json,
            "tokenizer_config.json": mutate_json,
        },
        write_vocabulary_encoder,
    ),
    kind("sentence-transformers", dict.fromkeys(SENTENCE_FILES, mutate_json), write_whole_encoder),
    kind(
        "layers",
        dict.fromkeys(
            ("2_Dense/model.safetensors", "3_LayerNorm/model.safetensors"), mutate_safetensors
        ),
        write_whole_encoder,
    ),
    kind("index", {INDEX: mutate_json, SHARD: mutate_safetensors}, write_sharded_encoder),
    Kind("texts", write_texts, {"texts.txt": mutate_texts}, use_texts),
)
