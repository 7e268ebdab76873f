"""Contact sheets: a video over time in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER, MARK = (32, 33, 36), (110, 114, 120), (255, 255, 255), (214, 69, 65)
MARGIN, GAP, THUMB = 16, 4, 112  # pixels


@dataclass
class ContactSheet:
    """Picks evenly spaced frames, the first and the last among them, as a video passes by.

    Args:
        label: what the row shows.
        total: frames of the whole video.
        fps: frames per second.
        count: frames to pick.
    """

    label: str
    total: int
    fps: float
    count: int = 12
    seen: int = field(default=0, init=False)
    images: list[NDArray[np.uint8]] = field(default_factory=list, init=False)

    @property
    def picks(self) -> list[int]:
        """Numbers of the picked frames."""
        return sorted({round(x) for x in np.linspace(0, self.total - 1, min(self.count, self.total))})

    def add(self, frames: NDArray[np.uint8]) -> None:
        """The next frames, uint8 ``[T, H, W, 3]``."""
        wanted = self.picks
        self.images += [frame.copy() for n, frame in enumerate(frames, self.seen) if n in wanted]
        self.seen += len(frames)


def draw(sheets: Sequence[ContactSheet], title: str, horizon: float | None = None) -> Image.Image:
    """One row for each sheet, all over the same times; frames past ``horizon`` seconds are marked."""
    times = [pick / sheets[0].fps for pick in sheets[0].picks]
    high, wide = sheets[0].images[0].shape[:2]
    thumb = (THUMB, round(THUMB * high / wide)) if wide <= THUMB else (THUMB * 2, round(THUMB * 2 * high / wide))
    left = MARGIN + max(int(font(15).getlength(sheet.label)) for sheet in sheets) + MARGIN
    top = MARGIN + 50
    size = (left + len(times) * (thumb[0] + GAP) + MARGIN, top + len(sheets) * (thumb[1] + GAP) + 26 + MARGIN)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN), title, INK, font(18))
    for row, sheet in enumerate(sheets):
        y = top + row * (thumb[1] + GAP)
        pen.text((MARGIN, y + thumb[1] // 2), sheet.label, INK, font(15), anchor="lm")
        for column, image in enumerate(sheet.images):
            page.paste(
                Image.fromarray(image).resize(thumb, Image.Resampling.NEAREST), (left + column * (thumb[0] + GAP), y)
            )
    foot = size[1] - MARGIN - 22
    for column, time in enumerate(times):
        centre = left + column * (thumb[0] + GAP) + thumb[0] // 2
        past = horizon is not None and time > horizon
        pen.text((centre, foot), f"{time:.1f} s", MARK if past else FAINT, font(13), anchor="ma")
    if horizon is not None and (first := next((n for n, time in enumerate(times) if time > horizon), 0)):
        x = left + first * (thumb[0] + GAP) - GAP // 2 - 1
        pen.line([(x, top - 18), (x, foot)], MARK, 2)
        pen.text((x + 6, top - 20), f"past the trained horizon ({horizon:.1f} s)", MARK, font(13))
    return page


def save(page: Image.Image, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    partial = path.with_suffix(".partial.png")
    page.save(partial)
    partial.replace(path)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)
