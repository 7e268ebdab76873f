"""Two networks that are trained in turns: their optimizers and schedules as one, of which Lightning makes a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rollforge.errors import UserError

Turn = Callable[[], str]
"""The name of the network whose turn it is."""
Gathered = Callable[[], tuple[int, int]]


class Turns(Optimizer):
    """Steps the optimizer whose network was trained.

    Args:
        optimizers: by the name of their network.
        turn: whose turn it is.
        gathered: the number of the step at work among those whose gradients make one step of an optimizer, and their
            count.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer], turn: Turn, gathered: Gathered = lambda: (0, 1)) -> None:
        groups = [group for each in optimizers.values() for group in each.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.param_groups = groups
        self.optimizers, self.turn, self.gathered = dict(optimizers), turn, gathered
        self._share()

    @property
    def completes(self) -> bool:
        """Whether the step at work makes one of an optimizer."""
        number, count = self.gathered()
        return number + 1 == count

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Leaves gradients that a step of an optimizer still waits for."""
        if self.gathered()[0] == 0:
            super().zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        """Computes the gradients, and makes a step of one optimizer.

        Where both networks have gradients, which training never leaves, torch is about to load a sharded state; it then
        wants one of each parameter.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        elif all(weight.grad is not None for group in self.param_groups for weight in group["params"]):
            for each in self.optimizers.values():
                each.step()
            return None
        if self.completes:
            self.optimizers[self.turn()].step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned, or in former versions did: a state by the name of each network."""
        if self.optimizers.keys() <= state_dict.keys():
            for name, each in self.optimizers.items():
                each.load_state_dict(state_dict[name])
                self.state.update(each.state)
            self.param_groups = [group for each in self.optimizers.values() for group in each.param_groups]
        else:
            super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Gives the optimizers the groups and the state of this one, so that what is set in either is in both."""
        start = 0
        for each in self.optimizers.values():
            count = len(each.param_groups)
            each.param_groups, each.state = self.param_groups[start : start + count], self.state
            start += count


class TurnSchedules:
    """Steps the schedule of the network that was trained, if it has one.

    Args:
        schedules: by the name of their network.
        optimizer: of both.
    """

    def __init__(self, schedules: Mapping[str, LRScheduler], optimizer: Turns) -> None:
        for name, each in schedules.items():
            if not isinstance(each, LRScheduler) or hasattr(each, "patience"):
                raise UserError(
                    f"The schedule of the {name}, {type(each).__name__}, watches a loss; two networks that are trained "
                    "in turns need schedules that count steps."
                )
        self.schedules, self.optimizer = dict(schedules), optimizer

    def step(self) -> None:
        """After a step of the optimizer."""
        if self.optimizer.completes and (schedule := self.schedules.get(self.optimizer.turn())) is not None:
            schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of all, by name."""
        return {name: each.state_dict() for name, each in self.schedules.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        for name, each in self.schedules.items():
            each.load_state_dict(state_dict[name])
