"""What eight-bit weights and activations would save, and what they would cost.

    python -m tools.int8_study --data snips

It prints for each of PyTorch's eight-bit products on a CPU: the time beside float32's; whether
PyTorch calls it deprecated; and how near the vectors stay to float32's, with all of MiniLM's linear
layers replaced. With --run it also prints the metrics of a fine-tuned run of that data. The result
is the reason why the library has no int8 products.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from train.batches import prepare
from train.evaluation import measure, predict
from train.load import load_data
from train.report import shown, table
from train.saved import load_run
from train.settings import Settings


class DynamicLinear(nn.Module):
    """A linear layer by PyTorch's dynamic eight-bit kernel, which has a scale for each output
    channel's weights and one scale for all activations.

    by_token: divide each token by its largest value before the kernel, and multiply by it after.
    """

    def __init__(self, linear: nn.Linear, by_token: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(1) / 127  # (out)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.bias, self.by_token = linear.bias, by_token

    def forward(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) if self.by_token else 1.0
        return (
            torch.ops.quantized.linear_dynamic(x / largest, self.packed, reduce_range=True)
            * largest
            + self.bias
        )


def replace_linears(module: nn.Module, by_token: bool) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, DynamicLinear(child, by_token))
        else:
            replace_linears(child, by_token)


def seconds(work: Callable[[], object], times: int = 10) -> float:
    """The shortest of some repetitions."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def products() -> str:
    """The time of each eight-bit product over float32's: 1024 tokens, MiniLM's feed-forward."""
    x, weight = torch.randn(1024, 384), torch.randn(1536, 384)
    x8, weight8 = (torch.randint(-127, 128, y.shape, dtype=torch.int8) for y in (x, weight))
    linear = nn.Linear(384, 1536)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dynamic = DynamicLinear(linear, by_token=False)
    deprecated = any("deprecated" in str(warning.message) for warning in caught)
    plain = seconds(lambda: F.linear(x, weight))
    with torch.inference_mode():
        rows = [
            ("product", "time / float32", "PyTorch says"),
            (
                "torch._int_mm",
                f"{seconds(lambda: torch._int_mm(x8, weight8.t()), 2) / plain:.2f}",
                "",
            ),
            (
                "torch.ops.quantized.linear_dynamic",
                f"{seconds(lambda: dynamic(x)) / plain:.2f}",
                "deprecated" if deprecated else "",
            ),
        ]
    return table(rows)


def vectors(texts: list[str]) -> str:
    """Speed and lowest cosine to float32 of MiniLM with eight-bit linear layers."""
    encoder = SentenceEncoder.from_pretrained("minilm", device="cpu")
    reference = encoder.encode(texts, truncation="silent")
    plain = seconds(lambda: encoder.encode(texts, truncation="silent"), 3)
    rows = [("activations", "lowest cosine", "mean cosine", "float32's time / its time")]
    for by_token in (False, True):
        small = SentenceEncoder.from_pretrained("minilm", device="cpu")
        replace_linears(small.bert, by_token)
        found = small.encode(texts, truncation="silent")
        taken = seconds(lambda encoder=small: encoder.encode(texts, truncation="silent"), 3)  # type: ignore[misc]
        cosines = (
            (found * reference).sum(1)
            / np.linalg.norm(found, axis=1)
            / np.linalg.norm(reference, axis=1)
        )
        scale = "a scale a token" if by_token else "one scale a batch"
        rows.append(
            (scale, f"{cosines.min():.4f}", f"{cosines.mean():.4f}", f"{plain / taken:.2f}")
        )
    return table(rows)


def metrics(folder: Path, data: str) -> str:
    """The test metrics of a fine-tuned run, with an encoder in float32 and in eight bits."""
    lines = []
    for name, by_token in (
        ("float32", None),
        ("one scale a batch", False),
        ("a scale a token", True),
    ):
        run = load_run(folder)
        if by_token is not None:
            replace_linears(run.model.bert, by_token)
        examples = load_data(Settings(data=(data,)), lambda _: None)[0].splits["test"]
        items = prepare(examples, run.encoder.tokenizer, run.tasks)
        found = measure(run.tasks, items, predict(run.model, run.tasks, items))
        lines.append(f"{name:<18} {shown(found, run.tasks)}")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print; the exit status is 0, or 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m tools.int8_study", description=__doc__)
    parser.add_argument(
        "--data", default="newsroom", help="whose texts are encoded: as of train.run"
    )
    parser.add_argument("--count", type=int, default=2000, help="how many of them (2000)")
    parser.add_argument("--run", type=Path, help="a finished run of that data")
    options = parser.parse_args()
    try:
        splits = load_data(Settings(data=(options.data,)), lambda _: None)[0].splits
        texts = [example.text for split in splits.values() for example in split][-options.count :]
        threads = torch.get_num_threads()
        print(
            f"torch {torch.__version__}, {threads} threads, {len(texts)} texts of {options.data}\n"
        )
        print(products(), vectors(texts), sep="\n\n")
        if options.run:
            print("\n" + metrics(options.run, options.data))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
