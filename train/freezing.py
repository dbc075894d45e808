"""Which parameters learn, and when.

A model's units have names: `embeddings`, `layers.0` and so on, `pooler`, `head.slots` and so on. A
text names some of them: "embeddings, layers.0-5", "backbone" (all but the heads), "heads", "all".
What is frozen has no gradient, no place in the optimizer and no dropout. Below the lowest unit that
learns autograd does not run at all.
"""

import re
from collections.abc import Sequence

from minibert.files import InputError
from train.model import HasHead, JointModel
from train.parse import parse_whole


def select(text: str, units: Sequence[str], setting: str) -> set[str]:
    """The units that a text names. Raises InputError, naming the word, for one that names none."""
    chosen: set[str] = set()
    for word in filter(None, map(str.strip, text.split(","))):
        span = re.fullmatch(r"layers\.([0-9]{1,4})-([0-9]{1,4})", word)
        if word == "all":
            named = set(units)
        elif word == "backbone":
            named = {unit for unit in units if not unit.startswith("head.")}
        elif word == "heads":
            named = {unit for unit in units if unit.startswith("head.")}
        elif word == "layers":
            named = {unit for unit in units if unit.startswith("layers.")}
        elif span:
            wanted = [f"layers.{i}" for i in range(int(span[1]), int(span[2]) + 1)]
            named = set(wanted) if wanted and set(wanted) <= set(units) else set()
        else:
            named = {word} & set(units)
        if not named:
            raise InputError(
                f"{setting} = {text!r}: {word!r} matches nothing; there are {', '.join(units)}"
            )
        chosen |= named
    return chosen


class FreezingPlan:
    """What is frozen in each epoch: everything that `freeze` names, less what `unfreeze` has named
    up to then.

    freeze: "backbone", "embeddings, layers.0-5", ... unfreeze: "2: layers.4-5; 3: layers.0-3",
    epochs counted from 1.
    """

    def __init__(
        self, model: JointModel, freeze: str, unfreeze: str, tasks: Sequence[HasHead]
    ) -> None:
        self.model = model
        names = list(model.units())
        # A pooler that no task uses has no gradient, so it stays frozen in any case.
        unused = set() if any(task.uses_pooler for task in tasks) else {"pooler"} & set(names)
        self.frozen = select(freeze, names, "freeze") | unused
        self.thawed: dict[int, set[str]] = {}
        for part in filter(None, map(str.strip, unfreeze.split(";"))):
            number, colon, text = part.partition(":")
            if not colon or not (epoch := parse_whole(number.strip())):
                raise InputError(
                    f"unfreeze = {unfreeze!r}: {part!r} should read EPOCH: UNITS, "
                    "epochs counted from 1"
                )
            thawed = select(text, names, "unfreeze") - unused
            if not thawed:
                raise InputError(
                    f"unfreeze = {unfreeze!r}: {part!r} names nothing that any task uses"
                )
            if needless := thawed - self.frozen:
                raise InputError(
                    f"unfreeze = {unfreeze!r}: {', '.join(sorted(needless))} is not frozen by "
                    f"freeze = {freeze!r}"
                )
            self.thawed[epoch] = self.thawed.get(epoch, set()) | thawed
        with_parameters = {name for name, unit in model.units().items() if list(unit.parameters())}
        if self.thawed and self.frozen_in(1) >= with_parameters:
            raise InputError(
                f"freeze = {freeze!r}, unfreeze = {unfreeze!r}: nothing would learn in the first "
                "epoch"
            )

    def frozen_in(self, epoch: int) -> set[str]:
        """The frozen units in an epoch, counted from 1."""
        return self.frozen - {
            unit for start, units in self.thawed.items() if start <= epoch for unit in units
        }

    def apply(self, epoch: int) -> None:
        """Make an epoch's frozen units frozen, and all others learn."""
        frozen = self.frozen_in(epoch)
        for name, unit in self.model.units().items():
            unit.requires_grad_(name not in frozen)
        self.model.train(self.model.training)

    def prefix(self, epoch: int) -> int:
        """How much of the encoder below all that learns is frozen in an epoch: 0 for none of it, 1
        for the embeddings, 1 + k for the lowest k layers too."""
        frozen = self.frozen_in(epoch)
        bottom_up = ["embeddings", *(f"layers.{i}" for i in range(len(self.model.bert.layers)))]
        return next((i for i, unit in enumerate(bottom_up) if unit not in frozen), len(bottom_up))
