"""The precision of training: which products are computed in bfloat16."""

import torch

from minibert.files import InputError


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether products are computed in bfloat16, under autocast (Micikevicius et al. 2018,
    arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322). Weights stay in float32.

    precision: "float32", "bfloat16" or "auto". Raises InputError for bfloat16 on a CPU that lacks
    the instructions: it would be slower than float32 there.
    """
    if precision == "float32":
        return False
    can = device.type != "cpu" or computes_bfloat16()
    if precision == "bfloat16" and not can:
        raise InputError(
            'precision = "bfloat16": this processor has no instructions for it, so it would be '
            "slower than float32; leave it out, or let auto choose"
        )
    return can


def computes_bfloat16() -> bool:
    """Whether this CPU has AVX-512's instructions for products of bfloat16 numbers (every processor
    with AMX has them too). ARM processors are not asked: bfloat16 is not measured there."""
    return torch.cpu._is_avx512_bf16_supported()
