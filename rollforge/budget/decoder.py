"""What a codec holds while it decodes a video and while it encodes its opening, found by running shapes through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.base import VideoCodec
from rollforge.budget.live import Live, tensors_in, without_numbers
from rollforge.budget.structure import once_per_structure
from rollforge.finish.base import Finish
from rollforge.spec import ModelSpec


@dataclass(frozen=True)
class Footprint:
    """Bytes of one video's decode stream: carried from block to block, and in addition at the busiest moment."""

    state: int
    working: int


def footprint(codec: VideoCodec, spec: ModelSpec, dtype: torch.dtype, tile: int | None) -> Footprint | None:
    """Of a stream that decodes blocks of ``spec``, in ``dtype`` and in tiles of ``tile`` cells.

    Feature maps grow with the area, so tiles, which overlap, carry more in all and work on less at once. None for a
    codec that cannot run without numbers.
    """
    full = _untiled(codec, spec.block, spec.latent_shape, dtype)
    if full is None or tile is None:
        return full
    total, largest = _areas(codec, spec, tile)
    width, height = codec.pixel_size(spec.width, spec.height)
    made = codec.pixel_frames(2 * spec.block) - codec.pixel_frames(spec.block)
    blended = 3 * made * width * height * torch.float32.itemsize  # where the tiles are put together
    return Footprint(round(full.state * total), round(full.working * largest) + blended)


def encoding_bytes(codec: VideoCodec, spec: ModelSpec, dtype: torch.dtype, tile: int | None, frames: int) -> int | None:
    """Bytes held while the opening of a video, ``frames`` latent frames long, is encoded. None as for ``footprint``."""
    full = _untiled_encoding(codec, spec.latent_shape, dtype, frames)
    if full is None or tile is None:
        return full
    width, height = codec.pixel_size(spec.width, spec.height)
    pixels = 3 * codec.pixel_frames(frames) * width * height
    video = pixels * (1 + 4 + dtype.itemsize)  # as bytes, as floats in 0..1 and in -1..1, none of it cut into tiles
    return max(13 * pixels, video + round((full - video) * _areas(codec, spec, tile)[1]))


def _areas(codec: VideoCodec, spec: ModelSpec, tile: int) -> tuple[float, float]:
    """The areas of all tiles together and of the largest, where the picture's is 1."""
    overlap = getattr(codec, "overlap", 0)
    edges = [(_covered(size, tile, overlap) / size, min(tile, size) / size) for size in (spec.height, spec.width)]
    (rows, row), (columns, column) = edges
    return rows * columns, row * column


def _covered(size: int, tile: int, overlap: int) -> int:
    """Cells of all spans that ``tiles.spans`` would cut an edge into."""
    return size + overlap * (len(range(0, max(1, size - overlap), tile - overlap)) - 1)


@once_per_structure
@torch.no_grad()
def _untiled(codec: VideoCodec, block: int, latent_shape: tuple[int, int, int], dtype: torch.dtype) -> Footprint | None:
    try:
        shapes = without_numbers(codec, dtype)
        if hasattr(shapes, "tile"):
            shapes.tile = None
        return _of_stream(shapes, torch.empty(1, block, *latent_shape, device="meta"))
    except Exception:  # any codec, by anyone: whatever it does that needs numbers
        return None


@once_per_structure
@torch.no_grad()
def finishing(finish: Finish, size: tuple[int, int], frames: int) -> Footprint | None:
    """Of a stage after the codec, for blocks of ``frames`` frames of a width and height. None as for ``footprint``."""
    try:
        return _of_stream(without_numbers(finish), torch.empty(1, frames, 3, size[1], size[0], device="meta"))
    except Exception:  # as above
        return None


def _of_stream(part: VideoCodec | Finish, block: Tensor) -> Footprint:
    """What a stream of a part on the meta device carries, and needs in addition for a block."""
    stream: Any = part.stream()
    with Live(part) as live:
        for _ in range(2):  # the second block is like all later ones
            stream(block)
    state = sum({id(kept.untyped_storage()): kept.untyped_storage().nbytes() for kept in tensors_in(stream)}.values())
    return Footprint(state, max(0, live.peak - state))


@once_per_structure
@torch.no_grad()
def _untiled_encoding(
    codec: VideoCodec, latent_shape: tuple[int, int, int], dtype: torch.dtype, frames: int
) -> int | None:
    try:
        shapes = without_numbers(codec, dtype)
        if hasattr(shapes, "tile"):
            shapes.tile = None
        _, rows, columns = latent_shape
        width, height = shapes.pixel_size(columns, rows)
        with Live(shapes) as live:
            pixels = torch.empty(1, shapes.pixel_frames(frames), height, width, 3, device="meta", dtype=torch.uint8)
            shapes.encode(pixels.permute(0, 1, 4, 2, 3).float() / 255)
    except Exception:  # as above
        return None
    return live.peak
