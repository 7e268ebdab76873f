"""Objects of the procedural world, found in frames by their own rendering, at half resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rollforge.data.world import SHAPES, SIZE, WORDS, sprite

HALF = 12  # pixels from the centre of a template to its border
LEAST_SEEN = 0.2  # share of a thing that must be visible for it to be looked for
STRAY_SEEN = 0.6  # the same for a thing that nothing tells of
APART = 6  # places, of two pixels, between the centres of two strays
MOST_STRAYS = 8  # counted in a frame


@dataclass(frozen=True)
class Template:
    """An object to look for, at half resolution: colours ``[3, h, w]``, where it is solid and where it is at all."""

    colours: Tensor
    solid: Tensor
    whole: Tensor

    @classmethod
    def of(cls, colour: str, shape: str) -> Template:
        """The template of an object, cut from a rendering at the centre of the frame."""
        painted, cover = sprite(colour, shape, np.array([[SIZE / 2, SIZE / 2]], np.float32))
        cut = slice(SIZE // 2 - HALF, SIZE // 2 + HALF)
        shade = functional.avg_pool2d(torch.from_numpy(cover[:, cut, cut]), 2)[0]
        colours = functional.avg_pool2d(torch.from_numpy(painted[0, cut, cut]).permute(2, 0, 1), 2)
        return cls(colours, (shade > 0.99).float(), (shade > 0.01).float())


def misfits(templates: list[Template], video: Tensor, visible: Tensor, least_seen: float) -> Tensor:
    """Root mean square differences from the visible frame at every place, ``[T, templates, rows, columns]``.

    1 where less than ``least_seen`` of an object would be visible.
    """
    solid = torch.stack([one.solid for one in templates])[:, None]  # [templates, 1, h, w]
    colours = torch.stack([one.colours for one in templates])
    seen = functional.conv2d(visible, solid)
    squares = functional.conv2d(video.square().sum(1, keepdim=True) * visible, solid)
    cross = functional.conv2d(video * visible, colours * solid)
    own = functional.conv2d(visible, colours.square().sum(1, keepdim=True) * solid)
    misfit = ((squares - 2 * cross + own).clamp(min=0) / (3 * seen.clamp(min=1))).sqrt()
    return misfit.masked_fill(seen < least_seen * solid.sum(dim=(2, 3))[..., None], 1.0)


def without_edges(visible: Tensor) -> Tensor:
    """``visible [T, 1, h, w]`` without the pixels next to an object, whose soft edge is there."""
    return 1 - functional.max_pool2d(1 - visible, 3, stride=1, padding=1)


class Strays:
    """Counts objects of any colour and shape, once those of the caption are masked."""

    def __init__(self) -> None:
        self.templates = [Template.of(colour, shape) for colour in WORDS["colour"] for shape in SHAPES]

    def count(self, video: Tensor, visible: Tensor, tolerance: float, known: Tensor, places: Tensor) -> Tensor:
        """Objects in each frame ``[T]`` that fit, 12 pixels in x or y from each other and from known ones.

        Args:
            video: ``[T, 3, h, w]`` at half resolution, of which only what ``visible [T, 1, h, w]`` leaves is looked at.
            tolerance: largest root mean square difference.
            known: whether an object was found, ``[T, things]``.
            places: and where, ``[T, things, 2]``: column and row of the template's corner.
        """
        least = misfits(self.templates, video, visible, STRAY_SEEN).amin(dim=1)  # [T, rows, columns]
        counts = torch.zeros(len(least))
        for t, frame in enumerate(least):
            for x, y in places[t][known[t]].tolist():
                _cover(frame, x, y)
            while frame.amin() < tolerance and counts[t] < MOST_STRAYS:
                y, x = divmod(int(frame.argmin()), frame.shape[1])
                _cover(frame, x, y)
                counts[t] += 1
        return counts


def _cover(frame: Tensor, x: int, y: int) -> None:
    """Lets nothing fit near a place, in misfits ``[rows, columns]``."""
    frame[max(0, y - APART + 1) : y + APART, max(0, x - APART + 1) : x + APART] = 1.0
