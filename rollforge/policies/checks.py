"""What every windowed policy checks when it is built."""

from __future__ import annotations

from rollforge.errors import UserError


def check_blocks(policy: object, context_blocks: int, sink_blocks: int = 0) -> None:
    """Raises a UserError unless both are whole numbers with ``0 <= sink_blocks <= context_blocks`` and a context."""
    name = type(policy).__name__
    for parameter, value, least in (("context_blocks", context_blocks, 1), ("sink_blocks", sink_blocks, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(
                f"{name} got {parameter}={value!r}, but it counts blocks: give a whole number of at least {least}."
            )
    if sink_blocks > context_blocks:
        raise UserError(
            f"{name} got sink_blocks={sink_blocks} and context_blocks={context_blocks}, but sinks are part of the "
            f"context: lower sink_blocks to {context_blocks} or less, or raise context_blocks to {sink_blocks} or more."
        )
