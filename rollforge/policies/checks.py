"""What policies with a sink or a window check besides the ranges of their arguments."""

from __future__ import annotations

from collections.abc import Mapping

from rollforge.errors import UserError


def check_sinks(policy: object, context_blocks: int, sink_blocks: int) -> None:
    """Raises ``UserError`` for a sink that is larger than the context, of which it is a part."""
    if sink_blocks > context_blocks:
        raise UserError(
            f"{type(policy).__name__} got sink_blocks={sink_blocks} and context_blocks={context_blocks}, but sinks are "
            f"part of the context: lower sink_blocks to {context_blocks} or less, or raise context_blocks to "
            f"{sink_blocks} or more."
        )


def check_window(policy: object, window: int, held: Mapping[str, int], block: int, more: int = 0) -> None:
    """Raises ``UserError`` for a window without a place for a recent frame next to the block and what is held.

    Args:
        policy: whose window it is.
        window: frames, the block included.
        held: frames of the window that are set aside, by the argument that says how many.
        block: frames of a block.
        more: frames that are set aside whatever the arguments say.
    """
    needed = sum(held.values()) + more + block + 1
    if window < needed:
        parts = ", ".join(f"{name}={count}" for name, count in held.items())
        raise UserError(
            f"{type(policy).__name__} got window_frames={window} and {parts}, which with blocks of {block} frames and "
            f"one recent frame need a window of {needed}: raise window_frames to {needed} or more, or lower "
            f"{' or '.join(held)}."
        )
