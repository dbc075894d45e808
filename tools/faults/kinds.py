"""All kinds of input from strangers."""

from tools.faults import models, runs
from tools.faults.fuzz import Kind


def kinds() -> tuple[Kind, ...]:
    return (*models.KINDS, *runs.KINDS)
