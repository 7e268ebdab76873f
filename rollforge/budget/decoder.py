"""What a codec holds while it decodes, found by decoding shapes: the meta device has no memory and does no work."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rollforge.backbones.base import VideoCodec
from rollforge.backbones.wan.placement import PlacedStream
from rollforge.backbones.wan.tiles import Tiles
from rollforge.spec import ModelSpec


@dataclass(frozen=True)
class Footprint:
    """Bytes of one video's decode stream: carried from block to block, and beside that at the busiest moment."""

    state: int
    working: int


def footprint(codec: VideoCodec, spec: ModelSpec, dtype: torch.dtype, tile: int | None) -> Footprint | None:
    """Of a stream that decodes blocks of ``spec``, in ``dtype`` and in tiles of ``tile`` cells.

    Feature maps grow with the area, so tiles, which overlap, carry more in all and work on less at once. None for a
    codec that cannot run without numbers.
    """
    whole = _untiled(codec, spec, dtype)
    if whole is None or tile is None:
        return whole
    tiles = Tiles(spec.height, spec.width, tile, getattr(codec, "overlap", 0)).all
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in tiles]
    cells, (width, height) = spec.height * spec.width, codec.pixel_size(spec.width, spec.height)
    made = codec.pixel_frames(2 * spec.block) - codec.pixel_frames(spec.block)
    picture = 3 * made * width * height * torch.float32.itemsize  # where the tiles are put together
    return Footprint(whole.state * sum(areas) // cells, whole.working * max(areas) // cells + picture)


@lru_cache(maxsize=16)
@torch.no_grad()
def _untiled(codec: VideoCodec, spec: ModelSpec, dtype: torch.dtype) -> Footprint | None:
    try:
        shapes = without_numbers(codec, dtype)
        if hasattr(shapes, "tile"):
            shapes.tile = None
        stream = shapes.stream()
        decode = stream.frames if isinstance(stream, PlacedStream) else stream  # autocast does not know of meta
        with _Live() as live:
            for _ in range(2):  # the second block is like all later ones
                decode(torch.empty(1, spec.block, *spec.latent_shape, device="meta"))
    except Exception:  # any codec, by anyone: whatever it does that needs numbers
        return None
    state = sum({id(kept.untyped_storage()): kept.untyped_storage().nbytes() for kept in tensors_in(stream)}.values())
    return Footprint(state, max(0, live.peak - state))


def without_numbers(module: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of a module with its weights on the meta device, in ``dtype`` where they are floats."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        empty = torch.empty_like(tensor, device="meta", dtype=kind)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return deepcopy(module, memo)


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


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and not yet dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._see(made.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size
