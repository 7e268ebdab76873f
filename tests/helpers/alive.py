"""Counts the storages that are alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """The most bytes on ``device`` at once, in addition to ``known`` modules; independent of the budget's counter."""

    def __init__(self, known: Iterable[nn.Module], device: str = "meta") -> None:
        super().__init__()
        self.device = device
        kept = [tensor for module in known for tensor in (*module.parameters(), *module.buffers())]
        self.seen = {id(tensor.untyped_storage()) for tensor in kept}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size
