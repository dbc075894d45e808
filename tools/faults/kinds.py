"""All kinds of input from strangers, and all other experiments by their names in the table."""

from tools.faults import bulk, commands, data, models, runs, texts, training
from tools.faults.fuzz import Kind


def kinds() -> tuple[Kind, ...]:
    return (*models.KINDS, *bulk.KINDS, *runs.KINDS, *data.KINDS, *commands.KINDS)


EXPERIMENTS = {**bulk.EXPERIMENTS, **training.EXPERIMENTS, **texts.EXPERIMENTS}
