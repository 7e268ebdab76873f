"""States a budget before the work, refuses what cannot fit, and explains an allocation that fails on the way."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from rollforge.budget.free import bytes_on, free_memory
from rollforge.budget.table import Budget
from rollforge.errors import UserError, ran_out

log = logging.getLogger(__name__)


class BudgetCheck(ABC):
    """The budget of what a command is about to do."""

    @property
    @abstractmethod
    def budget(self) -> Budget:
        """The table."""

    @abstractmethod
    def advice(self) -> str:
        """The settings that would make it fit, in one sentence."""

    @abstractmethod
    def remedy(self) -> str:
        """What to change after the memory has run out although the budget said that it would do."""

    def check(self) -> Budget:
        """Logs the budget. Raises ``UserError``, with the table and what would fit, where it does not fit."""
        budget = self.budget
        if not budget.fits:
            raise UserError(f"This does not fit into memory.\n{budget.table()}\n{self.advice()}")
        log.info("Memory:\n%s", budget.table())
        return budget

    @contextmanager
    def explained(self, kept: str = "") -> Iterator[None]:
        """Turns an allocation that fails inside into a ``UserError`` with the table and what to change.

        ``kept`` says where to find what was made until then.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
            if not ran_out(error):
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            table = self.budget.table()
            raise UserError(
                f"The memory ran out ({first}).{kept}\nThe budget was:\n{table}\n{self.remedy()}"
            ) from error


def free_for(processes: int, devices: Iterable[str], held: Iterable[nn.Module]) -> dict[str, int | None]:
    """Bytes free on each device. The processes of this machine share its CPU, where ``held`` has its place already."""
    free = {device: free_memory(device) for device in (*devices, "cpu")}
    if free["cpu"] is not None:
        free["cpu"] = free["cpu"] // processes + bytes_on("cpu", held)
    return free
