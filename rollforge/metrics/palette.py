"""The colours of sky and ground in videos of the procedural world, where each scene is tinted in its own way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.data.world import FAR, SKY_TINT, SOIL_TINT, Scene, soil_and_sky
from rollforge.state import Stateful

SKY, GROUND = slice(0, 10), slice(27, 32)  # rows, of two pixels, that show no hills
ROUNDS = 12  # in which a tint is fitted; more than one, as tinted colours are clipped
Colours = tuple[Tensor, Tensor]


def rows(video: Tensor, visible: Tensor) -> Tensor:
    """The colour of each row, ``[T, 3, h]``: the median over pixels without objects, of frames ``[T, 3, h, w]``.

    ``visible [T, 1, h, w]`` is 1 at these pixels. NaN in a row that is hidden.
    """
    return video.masked_fill(visible < 1, torch.nan).nanmedian(dim=3).values


class Palette:
    """What colours a caption allows, against those of rows at half resolution, ``[T, 3, 32]`` in 0..1.

    Args:
        scene: what the video shows.
    """

    def __init__(self, scene: Scene) -> None:
        soil, sky = (torch.from_numpy(colour).float() for colour in soil_and_sky(scene))
        self.sky, self.soil = sky.T, soil[:, None]  # [3, 64], [3, 1]

    def fitted(self, seen: Tensor) -> Colours:
        """The sky ``[T, 3, 64]`` and the far hills ``[T, 3, 1]`` under the tints that fit rows best."""
        above = _fitted(seen[:, :, SKY], functional.avg_pool1d(self.sky, 2)[:, SKY], SKY_TINT, 1.0)
        below = _fitted(seen[:, :, GROUND] * FAR, self.soil, SOIL_TINT, FAR)
        return _tinted(self.sky, above, 1.0), _tinted(self.soil, below, FAR)

    def error(self, seen: Tensor, colours: Colours) -> Tensor:
        """Mean absolute difference ``[T]`` of sky and ground from ``colours``, those that fit best."""
        sky, soil = functional.avg_pool1d(colours[0], 2), colours[1]
        apart = torch.cat([seen[:, :, SKY] - sky[:, :, SKY], seen[:, :, GROUND] - soil / FAR], dim=2)
        return apart.abs().nanmean(dim=(1, 2))


class Tint(Stateful):
    """How far the colours of sky and ground have left the mean of the opening's.

    Args:
        opening: how many frames are the opening.
    """

    def __init__(self, opening: int) -> None:
        self.opening, self.reference = opening, torch.zeros(0)

    def drifted(self, seen: Tensor) -> Tensor:
        """Mean absolute difference in 0..1, ``[T]``, of rows ``[T, 3, 32]``."""
        shown = torch.cat([seen[:, :, SKY], seen[:, :, GROUND]], dim=2)
        missing = self.opening - len(self.reference)
        if missing > 0:
            self.reference = torch.cat([self.reference.reshape(-1, *shown.shape[1:]), shown[:missing]])
        return (shown - self.reference.nanmean(dim=0)).abs().nanmean(dim=(1, 2))


def _tinted(plain: Tensor, tints: Tensor, most: float) -> Tensor:
    """Colours ``[3, rows]`` under tints ``[T, 3]``, as the world paints them: ``[T, 3, rows]``."""
    return (plain + tints[:, :, None]).clamp(0, most)


def _fitted(seen: Tensor, plain: Tensor, longest: float, most: float) -> Tensor:
    """The tints ``[T, 3]``, of those that the world may have, under which plain colours are nearest to those seen."""
    tints = torch.zeros(len(seen), 3)
    for _ in range(ROUNDS):
        missing = (seen - _tinted(plain, tints, most)).nanmean(dim=2).nan_to_num()
        tints = tints + missing - missing.mean(dim=1, keepdim=True)
        tints = tints * (longest / tints.norm(dim=1, keepdim=True).clamp(min=longest))
    return tints
