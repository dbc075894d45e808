"""The machine that the figures were measured on, and its own rate of matrix products."""

import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.fast.arranged import Product as ArrangedProduct
from minibert.fast.linear import convolution
from tools.benchmark.race import Engine, Work, version

PACKAGES = (
    "torch",
    "tokenizers",
    "transformers",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "ctranslate2",
    "flash-attn",
)
Product = Callable[[Tensor], Tensor]
PRODUCTS = {  # job -> tokens, and whether with gradients
    "16 tokens": (16, False),
    "1024 tokens": (1024, False),
    "1024 tokens, with gradients": (1024, True),
}
ARRANGED = "oneDNN, weights arranged before"


def facts(threads: int) -> dict[str, Any]:
    """Processor, graphics card, cores, threads and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = {package: found for package in PACKAGES if (found := version(package))}
    return {
        "processor": next(names, platform.machine()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": versions,
    }


def described(facts: dict[str, Any]) -> str:
    """The same in two lines."""
    card = f", {facts['cuda']}" if facts["cuda"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['processor']}, {facts['instructions']}, "
        f"{facts['threads']} threads on {facts['cores']} cores{card}\n"
        f"python {facts['python']}, {versions}"
    )


def useful_flop(config: BertConfig, lengths: Iterable[int]) -> int:
    """The FLOP of a forward pass over sentences of these lengths: the linear layers and attention's
    two products.

    A multiplication and an addition count as two. Only real tokens count, whatever padding an
    engine adds.
    """
    weights = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    products = sum(length * (weights + 2 * length * config.hidden_size) for length in lengths)
    return 2 * config.num_hidden_layers * products


def limit(config: BertConfig, device: str = "cpu", dtype: str = "float32") -> Engine:
    """The engine that computes nothing but matrix products, in each way. All other engines are
    compared with the fastest way."""
    sizes = {"hidden": config.hidden_size, "feed_forward": config.intermediate_size}
    ways = tuple(WAYS) if device == "cpu" else ("F.linear",)
    return Engine(
        "matrix products", matrix_products, sizes | {"device": device, "dtype": dtype}, ways
    )


def matrix_products(
    hidden: int, feed_forward: int, device: str, dtype: str, seconds: float = 1.0
) -> Work:
    """About a second of the products of a BERT layer. "done" is the FLOP.

    The job is one of PRODUCTS; for any other name it is a batch's products without gradients. Each
    gradient takes two more products of the same size. A way that has no gradients does nothing.
    """
    kind: dict[str, Any] = {"device": device, "dtype": getattr(torch, dtype)}
    shapes = [(hidden, hidden)] * 4 + [(feed_forward, hidden), (hidden, feed_forward)]
    layers = [nn.Linear(inputs, outputs, **kind) for outputs, inputs in shapes]

    def work(job: str, way: str) -> dict[str, float]:
        tokens, trains = PRODUCTS.get(job, (1024 if device == "cpu" else 65536, False))
        if trains and way == ARRANGED:
            return {"done": 0}
        inputs = {
            size: torch.randn(tokens, size, **kind, requires_grad=True)
            for size in (hidden, feed_forward)
        }
        gradients = {size: torch.randn(tokens, size, **kind) for size in (hidden, feed_forward)}
        flop = sum(2 * tokens * layer.weight.numel() for layer in layers) * (3 if trains else 1)
        done = 0
        with torch.set_grad_enabled(trains):
            products = [WAYS[way](layer) for layer in layers]
            start = time.perf_counter()
            while time.perf_counter() - start < seconds:
                for layer, product in zip(layers, products, strict=True):
                    x = inputs[layer.in_features]
                    y = product(x)
                    if trains:
                        torch.autograd.grad(
                            y, (x, *layer.parameters()), gradients[layer.out_features]
                        )
                if device == "cuda":
                    torch.cuda.synchronize()
                done += flop
        return {"done": done}

    return work


WAYS: dict[str, Callable[[nn.Linear], Product]] = {
    "F.linear": lambda linear: linear,
    "F.conv2d": lambda linear: lambda x: convolution(x, linear.weight, linear.bias),
    ARRANGED: lambda linear: ArrangedProduct([linear], linear.weight.dtype),
}
