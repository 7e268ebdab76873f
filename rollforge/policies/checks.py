"""What every policy with a sink checks besides the ranges of its arguments."""

from __future__ import annotations

from rollforge.errors import UserError


def check_sinks(policy: object, context_blocks: int, sink_blocks: int) -> None:
    """Raises ``UserError`` for a sink that is larger than the context, of which it is a part."""
    if sink_blocks > context_blocks:
        raise UserError(
            f"{type(policy).__name__} got sink_blocks={sink_blocks} and context_blocks={context_blocks}, but sinks are "
            f"part of the context: lower sink_blocks to {context_blocks} or less, or raise context_blocks to "
            f"{sink_blocks} or more."
        )
