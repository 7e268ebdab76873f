"""A CUDA card that is not here, by its size."""

from __future__ import annotations

import re

from rollforge.errors import UserError

UNITS = {"": 10**9, "G": 10**9, "GB": 10**9, "GIB": 2**30, "M": 10**6, "MB": 10**6, "MIB": 2**20}
CONTEXT = 6 * 10**8  # bytes that the driver and CUDA's context take


def free_on(card: str) -> int:
    """Bytes that a card of a size such as ``16GB`` leaves to a program. Raises ``UserError`` for what is not a size."""
    found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,3})?)\s*([a-zA-Z]*)\s*", card)
    unit = UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or float(found[1]) * unit <= CONTEXT:
        raise UserError(f"--card is {card!r:.40}; expected the memory of a card, such as 16GB or 80GB.")
    return round(float(found[1]) * unit) - CONTEXT
