"""How one frame's raw keys and values are cached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from rollforge.ranges import Checked
from rollforge.state import Stateful


class KVCodec(Checked, Stateful, ABC):
    """Encodes and decodes raw keys and values of one frame and layer, ``[B, tokens, heads, head_dim]`` each.

    The encoded form is plain data: tensors, numbers and strings in tuples, lists and dicts, so that a snapshot can
    hold it.
    Every memory has a codec of its own. Virtual frames are not encoded.

    The memory budget counts the tensors that ``encode`` returns for tensors on the meta device, which have a shape and
    a dtype and no values. A codec that cannot run on these is counted as if it left keys and values unchanged.
    """

    tolerance: float = 0.0
    """How far keys and values may come back changed, relative to the largest. Only the check of the kit reads it."""

    @abstractmethod
    def encode(self, k: Tensor, v: Tensor) -> Any:
        """Returns the form that is cached. ``k`` and ``v`` are copies, which may be cached unchanged."""

    @abstractmethod
    def decode(self, kept: Any) -> tuple[Tensor, Tensor]:
        """Returns the keys and values, restored from that form."""


class IdentityKVCodec(KVCodec):
    """Caches keys and values unchanged."""

    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def decode(self, kept: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return kept
