"""The budget of a rollout, before its first block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import nn

from rollforge.budget.budget_check import BudgetCheck, free_for
from rollforge.budget.lines import budget_of
from rollforge.budget.memory_input import MemoryInput
from rollforge.budget.settings import fitting, savings
from rollforge.budget.table import Budget


@dataclass(frozen=True)
class MemoryCheck(BudgetCheck):
    """The work that a command is about to do, and the bytes free for it on each device."""

    work: MemoryInput
    free: Mapping[str, int | None]

    @classmethod
    def here(cls, work: MemoryInput, processes: int = 1) -> Self:
        """On this machine, whose CPU ``processes`` share."""
        held: list[nn.Module] = [work.decoding.codec, *([work.backbone] if work.device == "cpu" else [])]
        return cls(work, free_for(processes, (work.device, work.decoding.device), held))

    @classmethod
    def on_card(cls, work: MemoryInput, free: int) -> Self:
        """On a CUDA card with ``free`` bytes in a machine that is not this one."""
        return cls(work, {"cuda:0": free, "cpu": None})

    @property
    def budget(self) -> Budget:
        """The table."""
        return budget_of(self.work, self.free)

    def advice(self) -> str:
        """The settings that would make it fit, in one sentence."""
        if settings := fitting(self.work, self.free):
            return f"It would fit with {' and '.join(settings)}."
        if self.budget.lacks_for_prompts:
            return (
                "The text encoder does not fit; encode the prompts on a machine with more memory, and copy its cache "
                "of text features here."
            )
        return "No setting of these parts makes it fit; take a smaller height and width, or a machine with more memory."

    def remedy(self) -> str:
        """What to change after the memory has run out although the budget said that it would do."""
        options = savings(self.work)
        if not options:
            return "Free memory that other programs hold, or take a smaller height and width."
        return f"Free memory that other programs hold, or set {options[0]}{', or '.join(['', *options[1:]])}."
