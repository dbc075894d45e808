"""A row of the table, for what is no fuzzing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """How often a fault was tried, what came of it, and what was lost or wrong."""

    tried: str
    came_of_it: str
    faults: list[str]
