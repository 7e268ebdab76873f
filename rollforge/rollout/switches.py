"""Which prompt is in force at a frame, and what happens where another one takes over."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rollforge.backbones.base import Condition

Schedule = Mapping[int, Condition]
"""The frame from which on each condition is in force; the first key is 0."""


class Prompts:
    """The conditions of each guidance branch over the video, and the switches that are still to come.

    Args:
        schedules: of each guidance branch.
        device: of the network.
        dtype: of the network.
    """

    def __init__(self, schedules: Mapping[str, Schedule], device: torch.device, dtype: torch.dtype) -> None:
        self.schedules = {
            branch: {start: condition.to(device, dtype) for start, condition in schedule.items()}
            for branch, schedule in schedules.items()
        }
        self.passed = 0

    @property
    def coming(self) -> tuple[int, ...]:
        """First frames of the prompts that are still to come."""
        return tuple(start for start in sorted(self.schedules["prompt"]) if start > self.passed)

    def at(self, branch: str, frame: int) -> Condition:
        """The condition in force at a frame."""
        schedule = self.schedules[branch]
        return schedule[max(start for start in schedule if start <= frame)]

    def switches(self, start: int) -> bool:
        """Whether another prompt takes over where the block at frame ``start`` is made next."""
        return any(frame <= start for frame in self.coming)

    def reach(self, start: int) -> bool:
        """Notes that the block at frame ``start`` is made next. Returns whether another prompt takes over there."""
        switched = self.switches(start)
        self.passed = max(self.passed, start)
        return switched
