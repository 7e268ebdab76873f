"""State that has state in it."""

from __future__ import annotations

from copy import deepcopy

from rollforge.errors import UserError
from rollforge.state import State, Stateful, odd


class Nested(Stateful):
    """``Stateful`` whose attributes may be ``Stateful`` themselves."""

    def state_dict(self) -> State:
        """A copy of everything later updates depend on."""
        state = {name: part.state_dict() if isinstance(part, Stateful) else part for name, part in vars(self).items()}
        if where := odd(state):
            raise UserError(
                f"{type(self).__name__} cannot be saved: its attribute {where} is neither a tensor nor plain data; "
                "give the class a state_dict and a load_state_dict, or roll without snapshots."
            )
        return deepcopy(state)

    def load_state_dict(self, state: State) -> None:
        """Takes up what ``state_dict`` told."""
        own = vars(self)
        for name, value in state.items():
            if isinstance(own.get(name), Stateful):
                own[name].load_state_dict(value)
            else:
                own[name] = deepcopy(value)
