"""More epochs or steps for a run that has begun."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minibert.files import InputError, write_text
from train.checkpoint import newest_state
from train.settings import Settings
from train.state import write_state

LIMITS = ("epochs", "max_steps")  # the settings that `--resume` can raise


def prolong(run: Path, settings: Settings, limits: Mapping[str, Any]) -> Settings:
    """Raise some of a run's LIMITS, whether it is finished or not. Returns its settings with them,
    which stand in settings.toml and in the newest checkpoint from then on.

    The learning rates of all steps to come are those of a schedule over the longer run: after a
    finished run, they rise at once to where that schedule stands. Raises InputError for limits that
    are no higher, for steps that have been taken already, and for what is no run.
    """
    folder, state = newest_state(run)
    old = {name: getattr(state.settings, name) for name in limits}
    step = state.progress.step
    for name, limit in limits.items():
        if _number(name, limit) <= (before := _number(name, old[name])):
            option = f"--{name.replace('_', '-')}"
            has = "takes all steps of its epochs" if before == math.inf else f"has {before} already"
            raise InputError(
                f"{option} {limit}: {run} {has}; give more to train longer, or leave {option} out "
                "to go on with what is left of these"
            )
    longer = replace(settings, **limits)
    if 0 < longer.max_steps <= step:
        raise InputError(
            f"{run} has taken {step} steps, and has max_steps = {longer.max_steps}: give "
            "--max-steps too, a higher number, or 0 for all steps of the epochs"
        )
    if 0 < settings.patience <= state.progress.evaluations_since_best:
        state.progress.evaluations_since_best = 0  # it had stopped early, and gets patience again
    state.settings = replace(state.settings, **limits)
    for name in ("metrics.json", "compare.json"):  # they are of fewer steps
        (run / name).unlink(missing_ok=True)
    write_text(run / "settings.toml", longer.toml())
    write_state(state, folder / "state.json")
    told, now = (", ".join(f"{k} = {v}" for k, v in some.items()) for some in (old, limits))
    print(
        f"{run} has taken {step} steps with {told}. It goes on with {now}: the learning rates "
        f"are those of the {settings.schedule} schedule over the longer run"
    )
    return longer


def _number(name: str, limit: int) -> float:
    """A limit as a number; max_steps = 0 means that there is none."""
    return math.inf if name == "max_steps" and limit == 0 else limit
