"""The averaged weights in a checkpoint of ``fit``, which are the ones to roll."""

from __future__ import annotations

from torch import Tensor

AVERAGE = "average."


def roll_average(weights: dict[str, Tensor]) -> None:
    """Puts the average, if there is one, in place of the weights of the part that it is an average of."""
    average = {
        name.removeprefix(f"{AVERAGE}module."): weights.pop(name) for name in [*weights] if name.startswith(AVERAGE)
    }
    for part in ("backbone", "codec"):
        trained = {f"{part}.{name}": value for name, value in average.items() if name != f"{AVERAGE}n_averaged"}
        if trained.keys() <= weights.keys():
            weights |= trained
