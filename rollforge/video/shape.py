"""How stored pictures are shown: with square pixels, and turned as the file says."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    """The way from a stored picture to the one that is shown.

    Phones store pictures as the sensor lies and write a display matrix next to them. DVDs and broadcasts store
    pictures whose pixels are not square.

    Args:
        stored: width and height in the file, in pixels.
        width: width with square pixels; the height stays.
        transposed: rows become columns; the mirrorings follow.
        mirrored: left becomes right.
        upended: top becomes bottom.
    """

    stored: tuple[int, int]
    width: int
    transposed: bool = False
    mirrored: bool = False
    upended: bool = False

    @classmethod
    def of(cls, picture: av.VideoFrame, aspect: Fraction | None) -> Shape:
        """Of a file, by its first picture and the width of a pixel over its height."""
        width = max(1, round(picture.width * (aspect or 1)))
        a, b, c, d = _display_matrix(picture)
        if abs(a) + abs(d) >= abs(b) + abs(c):  # a turn by less than a quarter is left out, as players do
            return cls((picture.width, picture.height), width, False, a < 0, d < 0)
        return cls((picture.width, picture.height), width, True, c < 0, b < 0)

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height in which pictures are shown."""
        width, height = self.width, self.stored[1]
        return (height, width) if self.transposed else (width, height)

    @property
    def plain(self) -> bool:
        """Whether pictures are shown as they are stored."""
        return self == Shape(self.stored, self.stored[0])

    def show(self, picture: av.VideoFrame, **how: Any) -> Frames:
        """RGB, uint8 ``[height, width, 3]`` in the shown size; ``how`` is the way of converting colours."""
        if self.width != self.stored[0]:
            how = {"interpolation": Interpolation.BICUBIC, **how, "width": self.width, "height": self.stored[1]}
        image = _opaque(picture, how)
        if self.plain:
            return image
        image = image.transpose(1, 0, 2) if self.transposed else image
        return np.ascontiguousarray(image[:: -1 if self.upended else 1, :: -1 if self.mirrored else 1])


def _opaque(picture: av.VideoFrame, how: dict[str, Any]) -> Frames:
    """RGB; what is transparent becomes white."""
    if not any(part.is_alpha for part in picture.format.components):
        return np.asarray(picture.to_ndarray(format="rgb24", **how), np.uint8)
    image = picture.to_ndarray(format="rgba", **how).astype(np.uint16)
    colour, alpha = image[..., :3], image[..., 3:]
    return np.asarray((colour * alpha + 255 * (255 - alpha) + 127) // 255, np.uint8)


def _display_matrix(picture: av.VideoFrame) -> tuple[int, int, int, int]:
    """``a, b, c, d`` of x' = a x + c y and y' = b x + d y."""
    data: Any = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(data, np.int32).tolist()
    return matrix[0], matrix[1], matrix[3], matrix[4]
