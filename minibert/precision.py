"""The precision of matrix products: float32, or bfloat16 where the processor computes with it.

A bfloat16 is the upper half of a float32: the same range, and eight bits of precision. Only numbers
that are multiplied are rounded to it; what is added up, and all else, stays in float32
(Kalamkar et al. 2019, arXiv:1905.12322; Micikevicius et al. 2018, arXiv:1710.03740).
"""

import os

import torch

from minibert.files import InputError

PRECISIONS = ("float32", "bfloat16", "auto")


def uses_bfloat16(precision: str, device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether products are computed in bfloat16.

    precision: "float32"; "bfloat16"; or "auto", which is bfloat16 wherever it is computed natively.
    dtype: of the weights. Raises InputError for another word, for weights that are not float32, and
    for bfloat16 on a CPU without the instructions: it would be slower than float32 there.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return False
    if dtype != torch.float32:
        raise InputError(
            f"precision {precision} is for float32 weights, and these are "
            f"{str(dtype).removeprefix('torch.')}: leave out one of precision and dtype"
        )
    can = device.type != "cpu" or computes_bfloat16()
    if precision == "bfloat16" and not can:
        raise InputError(
            f"precision bfloat16: PyTorch has no instructions for it here ({processor()}), so it "
            "would be slower than float32. It needs avx512_bf16 and AVX512: leave it out, or let "
            "auto choose"
        )
    return can


def computes_bfloat16() -> bool:
    """Whether this CPU has AVX-512's instructions for products of bfloat16 numbers (every processor
    with AMX has them too), and PyTorch uses AVX-512 and oneDNN. ARM processors are not asked:
    bfloat16 is not measured there."""
    return (
        torch.cpu._is_avx512_bf16_supported()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # ONEDNN_MAX_CPU_ISA can limit oneDNN
    )


def processor() -> str:
    """The instruction sets of this CPU that decide how fast products are, and which of them PyTorch
    uses, for people to read."""
    has = ", ".join(instructions()) or "no AVX2"
    uses = torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ATEN_CPU_CAPABILITY")
    return f"{has}; PyTorch uses {uses}" + (
        f", as ATEN_CPU_CAPABILITY={limit} says" if limit else ""
    )


def instructions() -> list[str]:
    """The instruction sets of this CPU that decide how fast products are."""
    has = {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512": torch.cpu._is_avx512_supported(),
        "avx512_vnni": torch.cpu._is_vnni_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }
    return [name for name, found in has.items() if found]
