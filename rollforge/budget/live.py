"""Modules run on the meta device, which has no memory and does no work, and the bytes that they would hold there."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOST = 2 * 10**4  # tensors of a network; where a limit is set, more are too many as well


def without_numbers(module: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of a module with its weights on the meta device, in ``dtype`` where they are floats."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        empty = torch.empty_like(tensor, device="meta", dtype=kind)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    shapes = deepcopy(module, memo)
    if hasattr(shapes, "at_work"):
        shapes.at_work = nullcontext  # autocast does not know of meta
    return shapes


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor that a value holds, in its attributes, lists and dicts; modules are not entered."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from tensors_in(member)
    elif isinstance(value, list | tuple | set):
        for member in value:
            yield from tensors_in(member)
    elif is_dataclass(value):
        for each in fields(value):
            yield from tensors_in(getattr(value, each.name))
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        yield from tensors_in(vars(value))


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are created and not yet freed.

    Args:
        module: its parameters and buffers, and views of them, do not count.
        limit: bytes at which the count stops the work with ``Full``; unset for none.
    """

    def __init__(self, module: nn.Module | None = None, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        known = [*module.parameters(), *module.buffers()] if module is not None else []
        self.seen = {id(tensor.untyped_storage()) for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._track(made.untyped_storage())
        return result

    def _track(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)
        if self.limit is not None and (self.now > self.limit or len(self.seen) > MOST):
            raise Full

    def _drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


class Full(MemoryError):
    """More bytes would be held than were allowed."""
