"""The check of video codecs."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from rollforge.backbones.base import VideoCodec
from rollforge.errors import UserError
from rollforge.testing.rules import expect, fail, keeping, same
from rollforge.testing.streams import check_cuts, check_turns
from rollforge.testing.tiny import TOLERANCE

FRAMES = 5
PIECES = ((1,) * 5, (1, 2, 2), (3, 2))


def check_codec(
    codec: VideoCodec, channels: int | None = None, *, grid: tuple[int, int] = (4, 6), tolerance: float = TOLERANCE
) -> None:
    """Checks a codec in float32 on the CPU: build it small.

    Args:
        codec: it is copied, not changed. One that only decodes raises ``UserError`` in ``encode``.
        channels: of its latents; default: those that it encodes to.
        grid: height and width of the latents that it is tried with.
        tolerance: how far two ways of decoding may differ; pixels are from 0 to 1.

    Raises:
        CheckFailed: with the rule and the values.
    """
    part = deepcopy(codec).float().eval()
    channels = _channels(part, grid) if channels is None else channels
    latents = torch.randn(2, FRAMES, channels, *grid, generator=torch.Generator().manual_seed(5))
    whole = _decoded(part, latents)
    _encoded(part, channels, grid)
    for pieces in PIECES:
        with keeping("codec-stream", part, f"In pieces of {pieces}"):
            stream = part.stream()
            streamed = torch.cat([stream(piece) for piece in latents.split(pieces, dim=1)], dim=1)
        same("codec-stream", part, f"In pieces of {pieces}", streamed, whole, tolerance)
    for row in (0, 1):
        with keeping("codec-batch", part, f"In row {row}"):
            alone = part.decode(latents[row : row + 1])
        same("codec-batch", part, f"In row {row}", whole[row : row + 1], alone, tolerance)
    check_turns("codec", part, latents, part.decode, tolerance)
    check_cuts("codec", part, latents)


def _channels(part: VideoCodec, grid: tuple[int, int]) -> int:
    with keeping("codec-size", part, "Encoding one latent frame"):
        width, height = part.pixel_size(grid[1], grid[0])
        channels: int = part.encode(torch.rand(1, part.pixel_frames(1), 3, height, width)).shape[2]
    return channels


def _decoded(part: VideoCodec, latents: Tensor) -> Tensor:
    height, width = latents.shape[-2:]
    with keeping("codec-size", part, f"With latents {list(latents.shape)}"):
        whole = part.decode(latents.clone().requires_grad_(True))
        size = part.pixel_size(width, height)
        counts = [part.pixel_frames(frames) for frames in range(FRAMES + 1)]
    wanted = (len(latents), counts[-1], 3, size[1], size[0])
    if tuple(whole.shape) != wanted:
        problem = (
            f"{list(latents.shape)} decode to {list(whole.shape)}; pixel_frames and pixel_size say {list(wanted)}."
        )
        fail("codec-size", part, problem)
    if counts[0] or counts != sorted(counts) or counts[1] < 1:
        fail("codec-size", part, f"pixel_frames of 0 to {FRAMES} latent frames are {counts}.")
    if whole.requires_grad or not bool(((whole >= 0) & (whole <= 1)).all()):
        problem = f"Its pixels are from {whole.min().item():.3g} to {whole.max().item():.3g}"
        fail("codec-range", part, f"{problem}{', with gradients' if whole.requires_grad else ''}.")
    return whole


def _encoded(part: VideoCodec, channels: int, grid: tuple[int, int]) -> None:
    width, height = part.pixel_size(grid[1], grid[0])
    video = torch.rand(1, part.pixel_frames(3), 3, height, width, generator=torch.Generator().manual_seed(6))
    try:
        with keeping("codec-size", part, f"Encoding {list(video.shape)}"):
            latents = part.encode(video.clone().requires_grad_(True))
    except Exception as error:
        if isinstance(error.__cause__, UserError):  # it only decodes
            return
        raise
    wanted = [1, 3, channels, *grid]
    expect(
        list(latents.shape) == wanted and not latents.requires_grad, "codec-size", part,
        f"{list(video.shape)} encode to {list(latents.shape)}, expected {wanted} without gradients.",
    )  # fmt: skip
