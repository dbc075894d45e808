"""What the numbers were measured on, and the most that could be reached on it."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from minibert.model import BertConfig
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


def facts(threads: int) -> dict[str, Any]:
    """Processor, graphics card, cores, threads and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = {package: found for package in PACKAGES if (found := version(package))}
    return {
        "processor": next(names, platform.machine()),
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
        f"{facts['processor']}, {facts['threads']} threads on {facts['cores']} cores{card}\n"
        f"python {facts['python']}, {versions}"
    )


def flop_per_token(config: BertConfig) -> int:
    """Of the linear layers, forward. Attention's own products depend on a text's length, and are left out."""
    products = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    return 2 * config.num_hidden_layers * products


def limit(config: BertConfig, device: str = "cpu", dtype: str = "float32") -> Engine:
    """The engine that does nothing but matrix products: the rate that all others are held against."""
    sizes = {"hidden": config.hidden_size, "feed_forward": config.intermediate_size}
    return Engine("matrix products", matrix_products, sizes | {"device": device, "dtype": dtype})


def matrix_products(hidden: int, feed_forward: int, device: str, dtype: str, seconds: float = 1.0) -> Work:
    """About a second of the products of a BERT layer, with a batch's tokens; the work done is the FLOP of it."""
    kind = {"device": device, "dtype": getattr(torch, dtype)}
    tokens = 1024 if device == "cpu" else 65536
    inputs = {size: torch.randn(tokens, size, **kind) for size in (hidden, feed_forward)}
    shapes = [(hidden, hidden)] * 4 + [(feed_forward, hidden), (hidden, feed_forward)]
    weights = [torch.randn(shape, **kind) for shape in shapes]
    flop = sum(2 * tokens * weight.numel() for weight in weights)

    def work(job: str, batch: str) -> dict[str, float]:
        done = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for weight in weights:
                F.linear(inputs[weight.size(1)], weight)
            if device == "cuda":
                torch.cuda.synchronize()
            done += flop
        return {"done": done}

    return work
