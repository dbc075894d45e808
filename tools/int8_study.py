"""Whether products of eight-bit numbers would be clearly better than those in bfloat16.

    python -m tools.int8_study

MiniLM encodes the benchmark's texts in float32, in bfloat16, with eight-bit products, and with
eight-bit products but for the feed-forward's second one, which is then computed in bfloat16. Each
token and each output channel has a scale. The weights are rounded and arranged once. The encoders
take turns in one process, with one thread.

On a processor without VNNI, oneDNN adds up pairs of eight-bit products in 16 bits, which overflow:
the cosines show that. RESULTS.md says what follows from the printed result.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.encoder import SentenceEncoder
from minibert.fast import arranged
from minibert.fast.arranged import Product
from minibert.files import InputError
from minibert.precision import computes_bfloat16
from tools.benchmark import machine
from tools.benchmark.corpora import corpora
from train.report import table


@dataclass(frozen=True)
class Row:
    """What was measured of one kind of products."""

    name: str
    over_float32: float  # its time over float32's
    over_bfloat16: float | None  # None where the processor has no bfloat16
    cosine: float  # the lowest one to float32's vectors

    def cells(self) -> tuple[str, ...]:
        over = "-" if self.over_bfloat16 is None else f"{self.over_bfloat16:.2f}"
        return self.name, f"{self.over_float32:.2f}", over, f"{self.cosine:.5f}"


class Int8Product:
    """`arranged.Product` with eight-bit tokens and weights, by oneDNN. Its result is float32."""

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype, gelu: bool = False) -> None:
        joined = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
        joined.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
        self.multiply = machine.arranged_int8(joined)
        self.bias = torch.cat([layer.bias.detach() for layer in layers])  # (O)
        self.gelu = gelu

    def __call__(self, x: Tensor) -> Tensor:
        """(*, I) -> (*, O)"""
        rows = x.flatten(0, -2).float()  # (*, I) -> (T, I)
        scales = rows.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127  # (T, 1)
        products = self.multiply((rows / scales).round_().to(torch.int8))  # (T, O)
        products = torch.addcmul(self.bias, products, scales).unflatten(0, x.shape[:-1])  # (*, O)
        return F.gelu(products) if self.gelu else products


def higher_where_it_narrows(
    layers: Sequence[nn.Linear], dtype: torch.dtype, gelu: bool = False
) -> Product | Int8Product:
    """Feed-forward's second product in bfloat16, if the processor has it; eight bits elsewhere."""
    if layers[0].in_features > layers[0].out_features:
        return Product(layers, torch.bfloat16 if computes_bfloat16() else torch.float32, gelu)
    return Int8Product(layers, dtype, gelu)


def encoders() -> dict[str, SentenceEncoder]:
    """MiniLM by each kind of products, float32 first."""
    load = partial(SentenceEncoder.from_pretrained, "minilm", device="cpu")
    found = {"float32": load()}
    if computes_bfloat16():
        found["bfloat16"] = load(precision="bfloat16")
    with patch.object(arranged, "Product", Int8Product):
        found["int8"] = load()
    with patch.object(arranged, "Product", higher_where_it_narrows):
        found["int8, one product higher"] = load()
    return found


def compared(texts: list[str], rounds: int, found: Mapping[str, SentenceEncoder]) -> list[Row]:
    """Let the encoders take turns. A time over another is the median of the rounds' ratios; a first
    round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    vectors = {}
    for _ in range(rounds + 1):
        for name, encoder in found.items():
            start = time.perf_counter()
            vectors[name] = encoder.encode(texts, normalize=True, truncation="silent")
            seconds[name].append(time.perf_counter() - start)

    def ratio(name: str, other: str) -> float:
        pairs = zip(seconds[name][1:], seconds[other][1:], strict=True)
        return statistics.median(a / b for a, b in pairs)

    return [
        Row(
            name,
            ratio(name, "float32"),
            ratio(name, "bfloat16") if "bfloat16" in found else None,
            float((vectors[name] * vectors["float32"]).sum(1).min()),
        )
        for name in found
    ]


def report(corpus: str, rows: Sequence[Row]) -> str:
    """The table of a corpus."""
    header = (corpus, "time / float32", "time / bfloat16", "lowest cosine")
    return f"\n{table([header, *(row.cells() for row in rows)])}"


def main() -> int:
    """Measure, and print; the exit status is 0, or 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m tools.int8_study", description=__doc__)
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="FOLDER",
        help="real texts, a folder with snips/ and tweeteval/ (default: made from newsroom)",
    )
    parser.add_argument("--count", type=int, default=300, help="texts of a corpus (300)")
    parser.add_argument("--rounds", type=int, default=3, help="of turns (3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine.described(machine.facts(1)))
    try:
        found = encoders()
        texts = corpora(found["float32"].tokenizer, options.data_root, options.count)
        for corpus, of_corpus in texts.items():
            print(report(corpus, compared(of_corpus, options.rounds, found)), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
