"""How far the hills of a video of the procedural world have moved from where they were: true hills never do."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.metrics.palette import Colours
from rollforge.state import Stateful

ROWS = slice(31, 46)  # where the line of the far hills runs
THING = 0.12  # a pixel further than this from both sky and soil, in 0..1, shows something else


class Skyline(Stateful):
    """The height of the far hills in each column, against the opening's.

    Args:
        opening: frames at the start whose median is the reference.
    """

    def __init__(self, opening: int) -> None:
        self.opening, self.seen = opening, torch.zeros(0, 0)

    def moved(self, video: Tensor, colours: Colours) -> Tensor:
        """Mean distance in pixels over the columns without objects, ``[T]``, of frames ``[T, 3, H, W]`` in 0..1.

        Sky and far hills have the ``colours`` ``[T, 3, H]`` and ``[T, 3, 1]``.

        NaN where objects hide it.
        """
        heights = self.heights(video, colours)
        missing = self.opening - len(self.seen)
        if missing > 0:
            self.seen = torch.cat([self.seen.reshape(-1, heights.shape[1]), heights[:missing]])
        return (heights - self.seen.nanmedian(dim=0).values).abs().nanmean(dim=1)

    def heights(self, video: Tensor, colours: Colours) -> Tensor:
        """Rows of soil in each column, ``[T, W]``; NaN where an object hides them."""
        band = video[:, :, ROWS]
        sky, soil = colours[0][:, :, ROWS, None], colours[1][..., None]  # [T, 3, rows, 1] and [T, 3, 1, 1]
        to_sky, to_soil = ((band - colour).abs().mean(dim=1) for colour in (sky, soil))  # [T, rows, W]
        share = to_sky / (to_sky + to_soil).clamp(min=1e-6)
        return share.sum(dim=1).masked_fill((torch.minimum(to_sky, to_soil) > THING).any(dim=1), torch.nan)
