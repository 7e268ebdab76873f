"""The check of video codecs."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from rollforge.backbones.base import VideoCodec
from rollforge.errors import UserError
from rollforge.state import copied, odd
from rollforge.testing.rules import expect, fail, keeping, same
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
    _turns(part, latents, tolerance)
    _cuts(part, latents)


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


def _turns(part: VideoCodec, latents: Tensor, tolerance: float) -> None:
    others = latents.flip(0)
    with keeping("codec-separate", part, "With two streams at once"):
        expected = [part.decode(each) for each in (latents, others)]
        streams = part.stream(), part.stream()
        made: tuple[list[Tensor], list[Tensor]] = ([], [])
        for frame in range(FRAMES):
            for n, each in enumerate((latents, others)):
                made[n].append(streams[n](each[:, frame : frame + 1]))
    for n in (0, 1):
        same("codec-separate", part, f"In stream {n}", torch.cat(made[n], dim=1), expected[n], tolerance)


def _cuts(part: VideoCodec, latents: Tensor) -> None:
    stream, expected, states = part.stream(), [], []
    for frame in range(FRAMES):
        with keeping("codec-resume", part, f"At frame {frame}"):
            states.append(copied(stream.state_dict()))
            expected.append(stream(latents[:, frame : frame + 1]))
    for cut, state in enumerate(states):
        if where := odd(state):
            fail("codec-resume", part, f"After {cut} frames the state holds something that is not plain at {where}.")
        with keeping("codec-resume", part, f"Cut after {cut} frames"):
            fresh = part.stream()
            fresh.load_state_dict(state)
            for frame in range(cut, min(cut + 2, FRAMES)):
                found = fresh(latents[:, frame : frame + 1])
                same("codec-resume", part, f"Cut after {cut} frames, at frame {frame}", found, expected[frame])
