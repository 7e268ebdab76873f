"""Lets the parity tests import one another and the packages, and records what enters the cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from packages import importable

from rollforge.memory import RolloutMemory
from rollforge.spec import Phase, ReadPlan, Step, Virtual

sys.path.insert(0, str(Path(__file__).parent))
importable()


@dataclass
class Record:
    """By frame, the raw keys and values that it last entered with, layer by layer; by block, its plan."""

    kept: dict[int, Any] = field(default_factory=dict)
    plans: dict[int, ReadPlan] = field(default_factory=dict)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """What the rollouts of a test let into their memory."""
    found = Record()
    steps: list[Step] = []
    begin, end, make = RolloutMemory.begin, RolloutMemory.end, RolloutMemory.make

    def making(self: RolloutMemory, block: int, virtual: Sequence[Virtual]) -> None:
        make(self, block, virtual)
        found.kept.update({frame: self.raw[frame] for each in virtual for frame in each.frames})

    def beginning(self: RolloutMemory, step: Step, plan: ReadPlan) -> None:
        steps.append(step)
        if step.phase is Phase.DENOISE:
            found.plans[step.index] = plan
        begin(self, step, plan)

    def ending(self: RolloutMemory, live: frozenset[int], moves: frozenset[int] | None = None) -> None:
        end(self, live, moves)
        if steps[-1].phase.writes:
            found.kept.update({frame: self.raw[frame] for frame in steps[-1].frames if frame in self.raw})

    monkeypatch.setattr(RolloutMemory, "make", making)
    monkeypatch.setattr(RolloutMemory, "begin", beginning)
    monkeypatch.setattr(RolloutMemory, "end", ending)
    return found
