"""The machine that the figures were measured on, and its own rates of matrix products.

A newer processor can stand in for an older one: environment variables keep libraries from its newer
instructions. Each variable holds for some libraries only; LIMITS names them, as measured. None
holds for onnxruntime. OpenVINO's bfloat16 fails where oneDNN is limited to AVX2.
"""

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
from minibert.fast.linear import capability, convolution
from minibert.precision import instructions
from tools.benchmark.race import Engine, Result, Work, measurable, race, ready, version

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
LIMITS = {  # environment variable -> whose instructions it limits
    "ATEN_CPU_CAPABILITY": "PyTorch's own kernels",
    "ONEDNN_MAX_CPU_ISA": "oneDNN of PyTorch and OpenVINO",
    "MKL_ENABLE_INSTRUCTIONS": "MKL of PyTorch and CTranslate2",
    "CT2_FORCE_CPU_ISA": "CTranslate2's own kernels, not its products",
}
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
    return {
        "processor": next(names, platform.machine()),
        "instructions": instructions(),
        "capability": capability(),
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := version(package))},
    }


def described(facts: dict[str, Any]) -> str:
    """The same in a few lines."""
    card = f", {facts['cuda']}" if facts["cuda"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    limits = [
        f"\nLIMITED to {value} by {name} ({LIMITS[name]})"
        for name, value in facts["limits"].items()
    ]
    return (
        f"{facts['processor']}, {facts['threads']} threads on {facts['cores']} cores{card}\n"
        f"instructions: {', '.join(facts['instructions'])}; PyTorch uses {facts['capability']}"
        f"{''.join(limits)}\n"
        f"python {facts['python']}, {versions}"
    )


def in_short(facts: dict[str, Any]) -> str:
    """What computes: the processor or card, and the threads."""
    return f"{facts['cuda'] or facts['processor']}, {facts['threads']} threads"


def rates(config: BertConfig, threads: int) -> dict[str, float]:
    """Each precision's rate of products with 1,024 tokens, in FLOP/s, by the fastest way."""
    with ready(measurable(limits(config)), threads) as workers:
        return {key: most.speed() for key, most in best(race(workers, 1, "1024 tokens")).items()}


def best(results: Iterable[Result]) -> dict[str, Result]:
    """Of the engines of matrix products, each precision's fastest way."""
    found: dict[str, Result] = {}
    for result in results:
        other = found.get(result.precision)
        if other is None or result.speed() > other.speed():
            found[result.precision] = result
    return found


def useful_flop(config: BertConfig, lengths: Iterable[int]) -> int:
    """The FLOP of a forward pass over sentences of these lengths: the linear layers and attention's
    two products.

    A multiplication and an addition count as two. Only real tokens count, whatever padding an
    engine adds.
    """
    weights = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    products = sum(length * (weights + 2 * length * config.hidden_size) for length in lengths)
    return 2 * config.num_hidden_layers * products


def limits(config: BertConfig, device: str = "cpu") -> list[Engine]:
    """The engines that compute nothing but matrix products, one for each precision, in each way.
    All other engines are compared with the fastest way of their precision."""
    sizes = {"hidden": config.hidden_size, "feed_forward": config.intermediate_size}
    ways = {precision: tuple(found) for precision, found in WAYS.items()}
    if device == "cuda":
        ways = {"bfloat16": ("F.linear",)}
    return [
        Engine(
            "matrix products",
            matrix_products,
            sizes | {"device": device, "precision": precision},
            found,
            precision=precision,
            device=device,
        )
        for precision, found in ways.items()
    ]


def matrix_products(
    hidden: int, feed_forward: int, device: str, precision: str, seconds: float = 0.5
) -> Work:
    """About half a second of the products of a BERT layer. "done" is the FLOP.

    The job is one of PRODUCTS; for any other name it is a batch's products without gradients. Each
    gradient takes two more products of the same size. A way that has no gradients does nothing.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    kind: dict[str, Any] = {"device": device, "dtype": dtype}
    shapes = [(hidden, hidden)] * 4 + [(feed_forward, hidden), (hidden, feed_forward)]
    layers = [nn.Linear(inputs, outputs, **kind) for outputs, inputs in shapes]

    def work(job: str, way: str) -> dict[str, float]:
        tokens, trains = PRODUCTS.get(job, (1024 if device == "cpu" else 65536, False))
        if trains and (way == ARRANGED or precision == "int8"):
            return {"done": 0}
        inputs = {
            size: torch.randn(tokens, size, **kind, requires_grad=trains)
            for size in (hidden, feed_forward)
        }
        if precision == "int8":
            inputs = {size: x.mul(40).to(torch.int8) for size, x in inputs.items()}
        gradients = {size: torch.randn(tokens, size, **kind) for size in (hidden, feed_forward)}
        flop = sum(2 * tokens * layer.weight.numel() for layer in layers) * (3 if trains else 1)
        done = 0
        with torch.set_grad_enabled(trains):
            products = [WAYS[precision][way](layer) for layer in layers]
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
            return {"done": done, "seconds": time.perf_counter() - start}

    return work


def eight_bits(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """A layer's weights, (O, I) int8, and the scale of each output channel, (O)."""
    weight = linear.weight.detach()
    scales = weight.abs().amax(1) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def int_mm(linear: nn.Linear) -> Product:
    """A layer's product with tokens of eight bits: integers, without scales and bias."""
    weight = eight_bits(linear)[0].t()
    return lambda x: torch._int_mm(x, weight)


def arranged_int8(linear: nn.Linear) -> Product:
    """A layer's product with tokens of eight bits, times the weights' scales: float32."""
    weight, scales = eight_bits(linear)
    arranged = torch.ops.onednn.qlinear_prepack(weight, [1024, linear.in_features])
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    exactly: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")  # what the result becomes
    multiply = torch.ops.onednn.qlinear_pointwise
    return lambda x: multiply(x, 1.0, 0, arranged, scales, zeros, None, *exactly)


# precision -> way -> what makes a layer's product of it
WAYS: dict[str, dict[str, Callable[[nn.Linear], Product]]] = {
    "float32": {
        "F.linear": lambda linear: linear,
        "F.conv2d": lambda linear: lambda x: convolution(x, linear.weight, linear.bias),
        ARRANGED: lambda linear: ArrangedProduct([linear], torch.float32),
    },
    "bfloat16": {
        "F.linear": lambda linear: linear,
        ARRANGED: lambda linear: ArrangedProduct([linear], torch.bfloat16),
    },
    "int8": {"torch._int_mm": int_mm, ARRANGED: arranged_int8},
}
