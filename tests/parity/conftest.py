"""Lets the parity tests import one another, and records what enters the cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollforge.memory import RolloutMemory
from rollforge.spec import ReadPlan, Step, Virtual

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """The raw keys and values that every frame last entered the cache with, layer by layer."""
    found: dict[int, Any] = {}
    steps: list[Step] = []
    begin, end, make = RolloutMemory.begin, RolloutMemory.end, RolloutMemory.make

    def making(self: RolloutMemory, block: int, virtual: Sequence[Virtual]) -> None:
        make(self, block, virtual)
        found.update({each.frame: self.raw[each.frame] for each in virtual})

    def beginning(self: RolloutMemory, step: Step, plan: ReadPlan) -> None:
        steps.append(step)
        begin(self, step, plan)

    def ending(self: RolloutMemory, live: frozenset[int], moves: frozenset[int] | None = None) -> None:
        end(self, live, moves)
        if steps[-1].phase.writes:
            found.update({frame: self.raw[frame] for frame in steps[-1].frames})

    monkeypatch.setattr(RolloutMemory, "make", making)
    monkeypatch.setattr(RolloutMemory, "begin", beginning)
    monkeypatch.setattr(RolloutMemory, "end", ending)
    return found
