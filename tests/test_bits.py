"""The vector of a text is the same to the last bit, alone and among others, in either precision.

Evidence: 200 texts of 3 to 256 tokens with MiniLM's weights; with the processor's own instructions,
and with AVX2 alone, to which ATEN_CPU_CAPABILITY limits PyTorch in a process of its own. And some
of them with random weights of BERT-base's sizes, whose longer sums AMX adds up in another order.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from minibert import Bert, BertConfig, SentenceEncoder
from minibert.precision import computes_bfloat16
from tools.benchmark.corpora import newsroom

BUDGETS = (1024, 100)  # tokens in a batch
PRECISION = pytest.mark.parametrize(
    "precision",
    [
        "float32",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif(
                not computes_bfloat16(), reason="PyTorch computes no bfloat16 here"
            ),
        ),
    ],
)


def texts(encoder: SentenceEncoder) -> list[str]:
    """100 sentences of newsroom, 60 short texts, and 40 long ones up to MiniLM's limit."""
    real = newsroom()[:140]
    words = " ".join(real[100:]).split()
    short = [" ".join(words[i : i + 1 + i % 6]) for i in range(60)]
    long = [" ".join(words[i : i + 20 + 5 * i]) for i in range(40)]
    found = [*real[:100], *short, *long]
    lengths = [len(tokens.ids) for tokens in encoder.tokenizer.encode(found, "silent")]
    assert (len(set(found)), min(lengths), max(lengths)) == (200, 3, 256)
    return found


def same_bits(threads: int, precision: str = "float32") -> list[str]:
    """What differs with MiniLM: nothing, if all is well."""
    encoder = SentenceEncoder.from_pretrained("minilm", device="cpu", precision=precision)
    return differing(encoder, texts(encoder), threads)


def differing(encoder: SentenceEncoder, found: list[str], threads: int) -> list[str]:
    """What differs, for each way to batch the texts."""
    torch.set_num_threads(threads)
    alone = np.stack([encoder.encode(text, truncation="silent") for text in found])
    wrong = []
    for budget in BUDGETS:
        together = encoder.encode(found, batch_tokens=budget, truncation="silent")
        same = (together == alone).all(1).sum()
        if same < len(found):
            wrong.append(f"{same} of {len(found)} with {budget} tokens a batch")
    backwards = encoder.encode(found[::-3], truncation="silent")
    if not np.array_equal(backwards, alone[::-3]):
        wrong.append("others where fewer texts come in another order")
    return wrong


@pytest.fixture
def threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@PRECISION
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("threads_put_back")
def test_with_the_processors_own_instructions(minilm: Path, threads: int, precision: str) -> None:
    assert same_bits(threads, precision) == []


@PRECISION
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("threads_put_back")
def test_at_the_sizes_of_bert_base(minilm: Path, threads: int, precision: str) -> None:
    tokenizer = SentenceEncoder.from_pretrained("minilm", device="cpu").tokenizer
    bert = Bert(BertConfig(num_hidden_layers=1)).eval()
    encoder = SentenceEncoder(bert, tokenizer, precision=precision)
    assert differing(encoder, texts(encoder)[::5], threads) == []


def test_with_avx2_alone(minilm: Path) -> None:
    """Where there is AVX-512, PyTorch takes it by itself."""
    program = (
        "import torch\n"
        "from tests.test_bits import same_bits\n"
        "print(torch.backends.cpu.get_cpu_capability())\n"
        "print(same_bits(1) + same_bits(2))\n"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    limited, wrong = done.stdout.splitlines()
    if limited != "AVX2":
        pytest.skip("this processor or this PyTorch has no AVX2")
    assert wrong == "[]"
