"""Refuses networks with random weights that cannot fit into memory, before anything is allocated."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rollforge.backbones.weights import named
from rollforge.budget import readable
from rollforge.budget.free import free_memory
from rollforge.budget.work import size_of
from rollforge.doctor.parts import blueprint, weights_named
from rollforge.errors import UserError


def check_networks(model: Any) -> None:
    """Raises ``UserError`` where a built-in backbone or codec of the config would not fit into the free memory.

    One with weights in a file is as large as its file, and is checked as it is read.
    """
    free = free_memory("cpu")
    for kind in ("backbone", "codec"):
        config = model[kind]
        if free is None or named(weights_named(config)) is not None or not config.class_path.startswith("rollforge."):
            continue
        with suppress(RuntimeError, TypeError):  # torch cannot count so many; building it says why
            needed = size_of(blueprint(kind, config))
            if needed > free:
                name = config.class_path.rpartition(".")[2]
                raise UserError(
                    f"The random weights of {name} would take {readable(needed)}, and {readable(free)} of memory are "
                    f"free; give model.{kind} smaller sizes."
                )
