"""All kinds of input from strangers."""

from tools.faults import commands, data, models
from tools.faults.fuzz import Kind


def kinds() -> tuple[Kind, ...]:
    return (*models.KINDS, *data.KINDS, *commands.KINDS)
