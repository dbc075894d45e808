"""All kinds of input from strangers, and all other experiments by their names in the table."""

from tools.faults import bulk, models, runs, training
from tools.faults.fuzz import Kind


def kinds() -> tuple[Kind, ...]:
    return (*models.KINDS, *bulk.KINDS, *runs.KINDS)


EXPERIMENTS = {**bulk.EXPERIMENTS, **training.EXPERIMENTS}
