"""What the time of encoding is spent on, by PyTorch's profiler."""

import random
from collections.abc import Mapping, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from minibert.encoder import SentenceEncoder
from tools.benchmark.corpora import cut, newsroom, stream

TOKENS = 4096  # of all texts of a length
KINDS = {  # kind of work -> PyTorch's names of the operations that do it
    "products, with GELU inside": ("_linear_pointwise", "addmm", "mm", "convolution", "gelu"),
    "attention": (
        *("bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu"),
        *("_softmax", "amax", "sub", "exp", "sum", "div", "div_", "mul"),
    ),
    "norms": ("native_layer_norm",),
    "residual sums": ("add", "add_"),
    "copies, conversions": ("copy_", "cat", "fill_", "zero_", "index_select"),
}
REST = "all else"


def shares(lengths: Sequence[int], precision: str) -> list[Sequence[str]]:
    """A row for each kind of work, a column for each length: its share of all operations' time.

    One thread computes. Python and the tokenizer are no operations of PyTorch, so they are left
    out.
    """
    torch.set_num_threads(1)
    encoder = SentenceEncoder.from_pretrained("minilm", device="cpu", precision=precision)
    words = stream(newsroom(), encoder.tokenizer, random.Random(0))
    columns = []
    for length in lengths:
        texts = cut(words, [length] * max(1, TOKENS // length))
        encoder.encode(texts, truncation="silent")
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            encoder.encode(texts, truncation="silent")
        found = profiled.key_averages()
        columns.append(by_kind({event.key: event.self_cpu_time_total for event in found}))
    header = (f"share of the time, {precision}", *(f"{length} tokens" for length in lengths))
    rows = [(kind, *(f"{column[kind]:.0%}" for column in columns)) for kind in (*KINDS, REST)]
    return [header, *rows]


def by_kind(times: Mapping[str, float]) -> dict[str, float]:
    """Each kind's share of all time, given the time of each operation, such as "aten::bmm"."""
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    shares = dict.fromkeys((*KINDS, REST), 0.0)
    for operation, time in times.items():
        shares[kind_of.get(operation.split("::")[-1], REST)] += time / sum(times.values())
    return shares
