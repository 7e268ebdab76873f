"""Pictures in overlapping tiles: cut, worked on one at a time, and blended by linear ramps where they overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """A run of cells along one axis, and how many of them it shares with its neighbours."""

    start: int
    stop: int
    before: int = 0
    after: int = 0

    def cut(self, scale: int) -> slice:
        """Where it lies in a picture with ``scale`` pixels to a cell."""
        return slice(self.start * scale, self.stop * scale)

    def ramp(self, scale: int, device: torch.device) -> Tensor:
        """Weights along it, ``[(stop - start) * scale]``; with those of its neighbours they add up to one."""
        weights = torch.ones((self.stop - self.start) * scale, device=device)
        before, after = self.before * scale, self.after * scale
        weights[:before] = torch.arange(before, device=device) / max(before, 1)
        weights[len(weights) - after :] -= torch.arange(after, device=device) / max(after, 1)
        return weights


def spans(size: int, tile: int, overlap: int) -> list[Span]:
    """Covers ``size`` cells with spans of ``tile`` cells (the last may be shorter) that share ``overlap`` cells."""
    return [
        Span(start, min(start + tile, size), overlap if start else 0, overlap if start + tile < size else 0)
        for start in range(0, max(1, size - overlap), tile - overlap)
    ]


class Tiles:
    """The tiles of a grid of ``height x width`` cells; a single one where ``tile`` is unset."""

    def __init__(self, height: int, width: int, tile: int | None, overlap: int) -> None:
        self.height, self.width = height, width
        rows = spans(height, tile, overlap) if tile else [Span(0, height)]
        columns = spans(width, tile, overlap) if tile else [Span(0, width)]
        self.all = list(product(rows, columns))

    def cut(self, picture: Tensor, scale: int = 1) -> Iterable[Tensor]:
        """The tiles of ``[..., height * scale, width * scale]``, one after the other."""
        return (picture[..., rows.cut(scale), columns.cut(scale)] for rows, columns in self.all)

    def blend(self, pieces: Iterable[Tensor], scale: int = 1) -> Tensor:
        """The whole picture ``[..., height * scale, width * scale]`` from its tiles, in the order of ``cut``."""
        whole: Tensor | None = None
        for (rows, columns), piece in zip(self.all, pieces, strict=True):
            if whole is None:
                whole = piece.new_zeros(*piece.shape[:-2], self.height * scale, self.width * scale)
            weights = rows.ramp(scale, piece.device)[:, None] * columns.ramp(scale, piece.device)
            whole[..., rows.cut(scale), columns.cut(scale)] += weights * piece
        assert whole is not None
        return whole
