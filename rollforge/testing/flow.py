"""The check of optical flow."""

from __future__ import annotations

from math import hypot

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from rollforge.metrics.flow import Flow
from rollforge.testing.rules import expect, fail, keeping, same

SIZES = ((64, 96), (51, 70))
MOVED = (3, 2)
"""Pixels to the right, and down."""
EDGE = 8
"""Pixels at the borders that are left out: what was there has moved out of the picture, or comes from outside."""


def check_flow(flow: Flow, *, moved: bool = True, tolerance: float = 0.5) -> None:
    """Checks an optical flow on smooth random textures.

    Args:
        flow: as a config would build it.
        moved: whether it must find a motion; false for a network with random weights.
        tolerance: in pixels, how far the median over the picture may be from the truth.

    Raises:
        CheckFailed: with the rule and the values.
    """
    for size in SIZES:
        before, after = (_texture(size, shift) for shift in ((0, 0), MOVED))
        first = _field(flow, before, after)
        still = _field(flow, before, before)
        same("flow-repeat", flow, "For the same pictures again", _field(flow, before, after), first)
        if moved:
            _found("flow-still", flow, still, (0, 0), tolerance)
            _found("flow-moved", flow, first, MOVED, tolerance)


def _field(flow: Flow, before: Tensor, after: Tensor) -> Tensor:
    given = [each if flow.reads == "rgb" else each.float().mean(2).to(torch.uint8) for each in (before, after)]
    kept, when = [each.clone() for each in given], f"With pictures {list(given[0].shape)}"
    with keeping("flow-field", flow, when):
        field = flow.between(given[0], given[1])
        wanted = (*before.shape[:2], 2)
        fits = tuple(field.shape) == wanted and field.is_floating_point() and field.device == before.device
        if not fits or not bool(field.isfinite().all()):
            fail("flow-field", flow, f"{when} it returned {list(field.shape)}, {field.dtype}; expected {list(wanted)}.")
    expect(all(map(torch.equal, kept, given)), "flow-repeat", flow, f"{when} it changes the pictures.")
    return field.detach().clone()


def _found(rule: str, flow: Flow, field: Tensor, shift: tuple[int, int], tolerance: float) -> None:
    x, y = field[EDGE:-EDGE, EDGE:-EDGE].flatten(0, 1).float().median(0).values.tolist()
    off = hypot(x - shift[0], y - shift[1])
    problem = f"It found ({x:.2f}, {y:.2f}) for a motion of {shift}, {off:.2f} px off (allowed {tolerance:g})."
    expect(off <= tolerance, rule, flow, problem)


def _texture(size: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """A smooth texture uint8 ``[H, W, 3]`` that has moved by ``shift`` pixels."""
    noise = torch.rand(3, size[0] + 16, size[1] + 16, generator=torch.Generator().manual_seed(4))
    for _ in range(2):
        noise = avg_pool2d(pad(noise, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    low, high = noise.min(), noise.max()
    (right, down), (rows, columns) = shift, size
    shown = noise[:, 8 - down : 8 - down + rows, 8 - right : 8 - right + columns]
    return ((shown - low) / (high - low) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
