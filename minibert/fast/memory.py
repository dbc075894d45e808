"""Memory that one layer frees is kept for the next one."""

import torch


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, where it would give it back to the system after each layer.

    glibc gives back what is free beyond twice the largest block that it has mapped and freed, as
    mallopt(3) says of M_TRIM_THRESHOLD. The next layer then waits while the system fills every page
    with zeros, up to a fifth of its time. The largest block that counts is 32 MiB. So one of nearly
    that size is taken and freed here; none of its pages is used. Elsewhere this does nothing.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
