"""Refuses models whose weights cannot fit into memory, before anything is allocated."""

from __future__ import annotations

import logging
from typing import Any

from rollforge.budget import readable
from rollforge.budget.free import free_memory
from rollforge.budget.live import Full
from rollforge.budget.memory_input import size_of
from rollforge.doctor.parts import blueprint, sizes_in_files, trained_by
from rollforge.errors import UserError
from rollforge.parallel import divide

log = logging.getLogger(__name__)


def check_networks(model: Any) -> None:
    """Raises ``UserError`` where a built-in backbone and codec of the config would not fit into the free memory, or the
    backbone cannot be divided among as many processes as the config says.

    Other errors are left to building it.
    """
    free, needed = free_memory("cpu"), dict[str, int]()
    if free is None:
        return
    for kind in ("backbone", "codec"):
        config = model[kind]
        if not config.class_path.startswith("rollforge."):
            continue
        try:
            sizes = sizes_in_files(config) if kind == "backbone" else None
            part = blueprint(kind, config, sizes, limit=2 * free)
            needed[kind] = size_of(part)
        except Full as error:
            raise _too_large(model, kind, f"more than {readable(2 * free)}", free) from error
        except Exception:  # of sizes that torch cannot count, or of files: building it says why
            log.debug("The %s could not be sized.", kind, exc_info=True)
        else:
            if kind == "backbone":
                divide(part.spec, model.context_parallel or 1)
    if averaged := _averaged(model):
        needed[averaged] = 2 * needed.get(averaged, 0)
    if sum(needed.values()) > free:
        kind = max(needed, key=lambda each: needed[each])
        raise _too_large(model, kind, readable(needed[kind]), free)


def _averaged(model: Any) -> str | None:
    """The component whose averaged weights are kept next to its own."""
    if not (model.ema and model.objective):
        return None
    try:
        return trained_by(model.objective)
    except (AttributeError, ImportError):  # building the model says why
        return None


def _too_large(model: Any, kind: str, size: str, free: int) -> UserError:
    name = model[kind].class_path.rpartition(".")[2]
    return UserError(
        f"The weights of {name} would take {size}, and {readable(free)} of memory are free; give model.{kind} smaller "
        "sizes, or use a machine with more memory."
    )
