"""The components that a rollout has copies of, and their state."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import torch
from torch import nn

from rollforge.borders import WrongAnswer
from rollforge.errors import attribute_errors
from rollforge.memory import Combine, KVCodec, Positions
from rollforge.policies.base import CachePolicy
from rollforge.rollout.branching import carry_over
from rollforge.samplers.base import Sampler
from rollforge.state import State, Stateful, moved

KINDS = {"policy": "cache policy", "kv_codec": "KV codec"}
"""What errors call those whose field has another name."""
BASES = {"policy": CachePolicy, "sampler": Sampler, "positions": Positions, "kv_codec": KVCodec, "combine": Combine}
T = TypeVar("T")


@dataclass
class Parts:
    """The components of one rollout that may change from block to block. No other rollout uses them."""

    policy: CachePolicy
    sampler: Sampler
    positions: Positions
    kv_codec: KVCodec
    combine: Combine | None = None

    def copy(self) -> Self:
        """Copies that share only weights."""
        return type(self)(**{each.name: _copied(each.name, getattr(self, each.name)) for each in fields(self)})

    def state_dict(self) -> State:
        """The state of those that have one. Raises ``UserError`` for one that cannot be saved."""
        state: State = {}
        for name, part in self._stateful().items():
            with attribute_errors(KINDS.get(name, name), part, "saving its state"):
                state[name] = part.state_dict()
        return state

    def load_state_dict(self, state: State, built: State, device: torch.device) -> dict[str, bool]:
        """Restores those whose state was saved. Returns, for each, whether it was ``built`` as it is now."""
        alike = {}
        for name, part in self._stateful().items():
            if name in state and name in built:
                with attribute_errors(KINDS.get(name, name), part, "restoring its state"):
                    alike[name] = carry_over(part, built[name], moved(state[name], device))
        return alike

    def _stateful(self) -> dict[str, Any]:
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: part for name, part in parts.items() if isinstance(part, Stateful)}


def _copied(name: str, part: T) -> T:
    weights = part.parameters() if isinstance(part, nn.Module) else ()
    kind, base = KINDS.get(name, name), BASES[name]
    with attribute_errors(kind, part, "being copied for a rollout"):
        made = deepcopy(part, {id(weight): weight for weight in weights})
    if part is not None and not isinstance(made, base):
        raise WrongAnswer(kind, part, made, "as a copy of itself", f"an object of class {base.__name__}")
    return made
