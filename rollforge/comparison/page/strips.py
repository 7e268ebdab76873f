"""Contact sheets of the page: evenly spaced frames of a video in one small JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rollforge.errors import UserError
from rollforge.video.reader import probe, stills
from rollforge.video.sheet import ContactSheet

GAP = 2
SIZES = ((112, 82), (88, 72), (56, 60))
"""Widths of a picture, and qualities of JPEG, largest first."""
BUDGET = 2_000_000  # bytes of all strips together


@dataclass(frozen=True)
class Strip:
    """A JPEG, its size in pixels, and when its frames are shown, in seconds."""

    picture: bytes
    size: tuple[int, int]
    times: list[float]


def strips(videos: Sequence[Path]) -> list[Strip | None]:
    """One for each video, as large as the budget of all allows. A video that cannot be read has none."""
    sheets = [_sheet(video) for video in videos]
    drawn: list[Strip | None] = []
    for width, quality in SIZES:
        drawn = [_strip(sheet, width, quality) if sheet else None for sheet in sheets]
        if sum(len(strip.picture) for strip in drawn if strip) <= BUDGET:
            break
    return drawn


def _sheet(video: Path) -> ContactSheet | None:
    try:
        info = probe(video)
        sheet = ContactSheet(video.name, info.frames, info.fps)
        sheet.images = [np.asarray(_small(still, SIZES[0][0])) for still in stills(video, sheet.picks)]
    except UserError:
        return None
    return sheet


def _small(picture: NDArray[np.uint8], width: int) -> Image.Image:
    image = Image.fromarray(picture)
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def _strip(sheet: ContactSheet, width: int, quality: int) -> Strip:
    images = [_small(image, width) for image in sheet.images]
    page = Image.new("RGB", (len(images) * (width + GAP) - GAP, images[0].height), (128, 128, 128))
    for n, image in enumerate(images):
        page.paste(image, (n * (width + GAP), 0))
    kept = BytesIO()
    page.save(kept, "JPEG", quality=quality, optimize=True)
    return Strip(kept.getvalue(), page.size, sheet.times)
