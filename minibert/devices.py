"""Devices and dtypes, as people name them."""

import torch

from minibert.files import InputError

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
}


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A dtype of weights: one of DTYPES, or its name. Raises InputError for any other."""
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise InputError(f"dtype {dtype!r:.200} is not one of {', '.join(DTYPES)}")
    return found


def as_device(device: str | torch.device | None) -> torch.device:
    """A device, or the one of that name, such as "cuda:1"; None: a GPU if there is one, else the
    CPU.

    On a Mac, the GPU is "mps". minibert is not measured there. Raises InputError for a device that
    this machine, or this PyTorch, does not have.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)  # PyTorch raises whatever its backend raises
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise InputError(
            f"device = {str(device)!r:.200} cannot be used: {reason.rstrip('.')}. Leave the device "
            "out, or name one that this machine has, such as cpu"
        ) from error
    return found
