"""What the checks of codecs and of stages after them share: streams that take turns, and streams that are resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rollforge.state import copied, odd
from rollforge.testing.rules import fail, keeping, same


def check_turns(kind: str, part: Any, given: Tensor, full: Callable[[Tensor], Tensor], tolerance: float) -> None:
    """Two streams that are fed ``[B, T, ...]`` in turns must give what ``full`` gives for each alone."""
    rule, others = f"{kind}-separate", given.flip(0)
    with keeping(rule, part, "With two streams at once"):
        expected = [full(each) for each in (given, others)]
        streams = part.stream(), part.stream()
        made: tuple[list[Tensor], list[Tensor]] = ([], [])
        for frame in range(given.shape[1]):
            for n, each in enumerate((given, others)):
                made[n].append(streams[n](each[:, frame : frame + 1]))
    for n in (0, 1):
        same(rule, part, f"In stream {n}", torch.cat(made[n], dim=1), expected[n], tolerance)


def check_cuts(kind: str, part: Any, given: Tensor) -> None:
    """A new stream with the state of another must continue like it, from every frame of ``[B, T, ...]``."""
    rule, frames = f"{kind}-resume", given.shape[1]
    stream, expected, states = part.stream(), [], []
    for frame in range(frames):
        with keeping(rule, part, f"At frame {frame}"):
            states.append(copied(stream.state_dict()))
            expected.append(stream(given[:, frame : frame + 1]))
    for cut, state in enumerate(states):
        if where := odd(state):
            fail(rule, part, f"After {cut} frames the state holds something that is not plain at {where}.")
        with keeping(rule, part, f"Cut after {cut} frames"):
            fresh = part.stream()
            fresh.load_state_dict(state)
            for frame in range(cut, min(cut + 2, frames)):
                found = fresh(given[:, frame : frame + 1])
                same(rule, part, f"Cut after {cut} frames, at frame {frame}", found, expected[frame])
