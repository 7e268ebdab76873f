"""The check of stages after the codec."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from rollforge.finish.base import Finish
from rollforge.testing.rules import expect, fail, keeping, same
from rollforge.testing.streams import check_cuts, check_turns
from rollforge.testing.tiny import TOLERANCE

FRAMES = 5
PIECES = ((1,) * 5, (1, 2, 2), (3, 2))


def check_finish(
    finish: Finish, *, size: tuple[int, int] = (12, 16), in_order: bool = True, tolerance: float = TOLERANCE
) -> None:
    """Checks a stage after the codec in float32 on the CPU: build it small.

    Args:
        finish: it is copied, not changed.
        size: height and width of the frames that it is tried with.
        in_order: whether no frame depends on later ones; false for a stage that looks ahead within a block.
        tolerance: how far two ways of finishing may differ; pixels are from 0 to 1.

    Raises:
        CheckFailed: with the rule and the values.
    """
    part = deepcopy(finish).float().eval()
    frames = torch.rand(2, FRAMES, 3, *size, generator=torch.Generator().manual_seed(8))
    full = _finished(part, frames)
    for pieces in PIECES if in_order else ():
        with keeping("finish-stream", part, f"In pieces of {pieces}"):
            stream = part.stream()
            streamed = torch.cat([stream(piece) for piece in frames.split(pieces, dim=1)], dim=1)
        same("finish-stream", part, f"In pieces of {pieces}", streamed, full, tolerance)
    for row in (0, 1):
        with keeping("finish-batch", part, f"In row {row}"):
            alone = part.stream()(frames[row : row + 1])
        same("finish-batch", part, f"In row {row}", full[row : row + 1], alone, tolerance)
    check_turns("finish", part, frames, lambda given: _one_by_one(part, given), tolerance)
    check_cuts("finish", part, frames)
    if hasattr(part, "loss"):
        _check_loss(part.train().requires_grad_(True), frames)


def _check_loss(part: Any, decoded: Tensor) -> None:
    width, height = part.pixel_size(decoded.shape[-1], decoded.shape[-2])
    true = torch.rand(*decoded.shape[:3], height, width, generator=torch.Generator().manual_seed(9))
    with keeping("finish-loss", part, f"With frames {list(decoded.shape)}"):
        losses: dict[str, Tensor] = part.loss(decoded, true)
        finite = all(value.dim() == 0 and bool(value.isfinite()) for value in losses.values())
        expect("loss" in losses and finite, "finish-loss", part, f"It returns {losses!r:.200}.")
        losses["loss"].backward()
    if not any(weight.grad is not None for weight in part.parameters()):
        fail("finish-loss", part, "After loss.backward() none of its parameters has a gradient.")


def _one_by_one(part: Finish, frames: Tensor) -> Tensor:
    stream = part.stream()
    return torch.cat([stream(frame) for frame in frames.split(1, dim=1)], dim=1)


def _finished(part: Finish, frames: Tensor) -> Tensor:
    kept, (rows, columns) = frames.clone(), frames.shape[-2:]
    with keeping("finish-size", part, f"With frames {list(frames.shape)}"):
        width, height = part.pixel_size(columns, rows)
        full = part.stream()(frames.clone().requires_grad_(True))
        again = part.stream()(frames)
    wanted = (*frames.shape[:2], 3, height, width)
    if tuple(full.shape) != wanted:
        fail("finish-size", part, f"{list(frames.shape)} became {list(full.shape)}; expected {list(wanted)}.")
    if full.requires_grad or not bool(((full >= 0) & (full <= 1)).all()):
        problem = f"Its pixels are from {full.min().item():.3g} to {full.max().item():.3g}"
        fail("finish-range", part, f"{problem}{', with gradients' if full.requires_grad else ''}.")
    expect(torch.equal(frames, kept), "finish-repeat", part, "It changes the frames that it is given.")
    same("finish-repeat", part, "For the same frames in a new stream", again, full)
    return full
