"""What a part carries from one block to the next, in a form that a snapshot can keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, ClassVar

from rollforge.errors import UserError

State = dict[str, Any]
"""Nested dicts (keys are strings or whole numbers), lists and tuples of tensors, numbers, strings and ``None``."""

CLASS = "class"
"""Key under which the state of a component within another names its class."""
LEAVES = (str, bool, int, float, type(None))


class Stateful:
    """A part that may carry something from block to block. Its attributes are its state by default.

    They are plain, or ``Stateful`` themselves; the state of such a part also names its class. Between two blocks
    ``state_dict`` must return all that later blocks depend on, and ``load_state_dict``, on an object built with the
    same arguments, must restore it exactly.
    """

    unsaved: ClassVar[tuple[str, ...]] = ()
    """Attributes that never change after the constructor, such as a network, and are not part of the state."""

    def state_dict(self) -> State:
        """A copy of everything later blocks depend on. Raises ``UserError`` for an attribute that cannot be kept."""
        state = {
            name: {CLASS: class_name(part), **part.state_dict()} if isinstance(part, Stateful) else part
            for name, part in vars(self).items()
            if name not in self.unsaved
        }
        if where := odd(state):
            raise UserError(
                f"{type(self).__name__} cannot be saved: its attribute {where} is neither a tensor nor plain data; "
                "give the class a state_dict and a load_state_dict, or generate without snapshots."
            )
        return deepcopy(state)

    def load_state_dict(self, state: State) -> None:
        """Restores what ``state_dict`` returned. A part keeps its own state where that of another class was saved."""
        own = vars(self)
        for name, value in state.items():
            if not isinstance(part := own.get(name), Stateful):
                own[name] = deepcopy(value)
            elif is_of(part, value):
                part.load_state_dict({key: each for key, each in value.items() if key != CLASS})


def class_name(part: object) -> str:
    """The full name of the class of a part."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def is_of(part: object, state: State) -> bool:
    """Whether the state of a part within another was saved by one of the same class. Version 0.1 did not say."""
    return bool(state.get(CLASS, class_name(part)) == class_name(part))


def changes(part: Stateful, before: State, after: State) -> State:
    """What of a state has changed since ``before``, the parts within ``part`` included."""
    changed: State = {}
    for name, value in after.items():
        within = vars(part).get(name)
        if not isinstance(within, Stateful) or type(within).load_state_dict is not Stateful.load_state_dict:
            changed |= {name: value} if name not in before or not same(value, before[name]) else {}
        elif is_of(within, value):
            changed[name] = changes(within, before.get(name, {}), value)
    return changed


def odd(state: Any, path: str = "") -> str | None:
    """Where in a nested state something lies that is not plain; nothing where all is."""
    if isinstance(state, LEAVES) or is_tensor(state):
        return None
    if isinstance(state, Mapping):
        if any(not isinstance(key, (str, int)) for key in state):
            return path or "a key"
        pairs = [(str(key), value) for key, value in state.items()]
    elif isinstance(state, (list, tuple)):
        pairs = [(str(n), value) for n, value in enumerate(state)]
    else:
        return f"{path} ({type(state).__name__})"
    return next((found for key, value in pairs if (found := odd(value, f"{path}.{key}".lstrip(".")))), None)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, without importing torch: policies do not need it."""
    return hasattr(type(value), "__torch_function__")


def moved(state: Any, device: Any) -> Any:
    """The same nested state with its tensors on a ``torch.device``."""
    return _rebuilt(state, lambda tensor: tensor.to(device))


def copied(state: Any) -> Any:
    """The same nested state in containers of its own. It shares its tensors with the original."""
    return _rebuilt(state, lambda tensor: tensor)


def cloned(state: Any) -> Any:
    """The same nested state with tensors of its own."""
    return _rebuilt(state, lambda tensor: tensor.clone())


def tensors_of(state: Any) -> Iterator[Any]:
    """The tensors of a nested state."""
    if is_tensor(state):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from tensors_of(value)


def same(one: Any, other: Any) -> bool:
    """Whether two nested states hold the same. Lists and tuples count as alike, as a file gives them back."""
    if is_tensor(one) or is_tensor(other):
        return is_tensor(one) and is_tensor(other) and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _rebuilt(state: Any, change: Callable[[Any], Any]) -> Any:
    """The same nested state in new containers, with its tensors changed."""
    if is_tensor(state):
        return change(state)
    if isinstance(state, Mapping):
        return {key: _rebuilt(value, change) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_rebuilt(value, change) for value in state)
    return state
