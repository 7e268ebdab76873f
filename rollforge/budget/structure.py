"""Counts that hold for all components of one structure, made once in a process.

Shapes decide what a module holds at work, not the numbers in it. Two components are of one structure if they have the
same classes and attributes, and tensors of the same shapes and dtypes. None is kept alive by what was counted for it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable
from functools import wraps
from io import BytesIO
from types import FunctionType
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

P = ParamSpec("P")
T = TypeVar("T")
MOST = 64  # counts of one kind that are kept

_structures: WeakKeyDictionary[nn.Module, Hashable] = WeakKeyDictionary()


def once_per_structure(count: Callable[P, T]) -> Callable[P, T]:
    """A function that runs once for all arguments of one structure."""
    known: dict[Hashable, T] = {}

    @wraps(count)
    def counted(*values: P.args, **named: P.kwargs) -> T:
        key = tuple(map(structure, (*values, *named.items())))
        if key not in known:
            if len(known) == MOST:
                del known[next(iter(known))]
            known[key] = count(*values, **named)
        return known[key]

    return counted


def structure(value: Any) -> Hashable:
    """Equal for components that differ in nothing but their numbers. A module is not expected to change, and read once.

    Something that cannot be pickled is like itself alone.
    """
    if not isinstance(value, nn.Module):
        return _written(value)
    if value not in _structures:
        _structures[value] = _written(value)
    return _structures[value]


def _written(value: Any) -> Hashable:
    try:
        return _WithoutNumbers().written(value)
    except Exception:  # any component, by anyone
        return object()


class _WithoutNumbers(pickle.Pickler):
    """Writes the shapes of tensors in their place; classes and functions are identified by content, not by name."""

    def __init__(self) -> None:
        self.content, self.code = BytesIO(), list[Any]()
        super().__init__(self.content)

    def written(self, value: Any) -> Hashable:
        """What the value is made of."""
        self.dump(value)
        return (self.content.getvalue(), *self.code)

    def persistent_id(self, value: Any) -> Any:
        """What represents a tensor, a class or a function; None for everything else."""
        if isinstance(value, Tensor):
            return tuple(value.shape), str(value.dtype)
        if isinstance(value, type | FunctionType):
            self.code.append(value)
            return len(self.code)
        return None
