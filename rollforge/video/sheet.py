"""Contact sheets: a video over time in one picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rollforge.errors import UserError
from rollforge.files.writing import replacing
from rollforge.state import State
from rollforge.video.lettering import Lettering

INK, FAINT, PAPER, MARK = (32, 33, 36), (110, 114, 120), (255, 255, 255), (214, 69, 65)
SMALL, LARGE = 128, 208  # pixels: widths up to which thumbnails grow, and to which they shrink
MARGIN, GAP = 16, 4
LABEL = 260  # pixels: the widest label of a row
WIDE = r"\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef"  # letters of Chinese, Japanese and Korean
LONGEST = 2000  # characters of a text that are looked at
COMPRESSION = 3  # of PNG: half the time of the default, for a seventh more bytes


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

    def __post_init__(self) -> None:
        if self.total < 1 or self.count < 1 or self.fps <= 0:
            raise UserError(
                f"A contact sheet needs frames to show, not {self.count} of {self.total} at {self.fps} FPS."
            )

    @property
    def picks(self) -> list[int]:
        """Numbers of the picked frames."""
        return sorted({round(x) for x in np.linspace(0, self.total - 1, min(self.count, self.total))})

    @property
    def times(self) -> list[float]:
        """When the picked frames are shown, in seconds."""
        return [pick / self.fps for pick in self.picks]

    def add(self, frames: NDArray[np.uint8]) -> None:
        """The next frames, uint8 ``[T, H, W, 3]``; any beyond ``total`` are not looked at."""
        self.images += [frames[pick - self.seen].copy() for pick in self.picks if 0 <= pick - self.seen < len(frames)]
        self.seen += len(frames)

    def state_dict(self) -> State:
        """What has been picked so far."""
        import torch  # nothing else about sheets needs it

        return {"seen": self.seen, "images": [torch.from_numpy(image) for image in self.images]}

    def load_state_dict(self, state: State) -> None:
        """Restores what ``state_dict`` returned."""
        self.seen, self.images = state["seen"], [image.numpy() for image in state["images"]]


def draw(sheets: Sequence[ContactSheet], title: str, horizon: float | None = None) -> Image.Image:
    """One row for each sheet, all over the same times; frames past ``horizon`` seconds are marked.

    A video that ended early leaves its last places empty. Raises ``UserError`` where there is nothing to compare.
    """
    shown = [image for sheet in sheets for image in sheet.images[:1]]
    if not shown or any(sheet.times != sheets[0].times for sheet in sheets):
        raise UserError("The rows of a contact sheet need frames, and the same times in each of them.")
    times, thumb = sheets[0].times, _thumbnail(shown[0]).size
    labels = [fitted(sheet.label, 15, LABEL, max(1, thumb[1] // 18)) for sheet in sheets]
    left = MARGIN + max(_width(label) for label in labels) + MARGIN
    right = left + len(times) * (thumb[0] + GAP) - GAP
    lines = fitted(title, 18, max(200, right - MARGIN), 6).split("\n")
    top = MARGIN + 24 * len(lines) + 26
    foot = top + len(sheets) * (thumb[1] + GAP)
    page = Image.new("RGB", (right + MARGIN, foot + 26 + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    pen.multiline_text((MARGIN, MARGIN - 2), "\n".join(lines), INK, font(18), spacing=6)
    for row, sheet in enumerate(sheets):
        y = top + row * (thumb[1] + GAP)
        pen.multiline_text((left - MARGIN, y + thumb[1] // 2), labels[row], INK, font(15), anchor="rm", align="right")
        for column, image in enumerate(sheet.images):
            page.paste(_thumbnail(image), (left + column * (thumb[0] + GAP), y))
    past = len(times) if horizon is None else sum(time <= horizon for time in times)
    for column, time in enumerate(times):
        centre = left + column * (thumb[0] + GAP) + thumb[0] // 2
        pen.text((centre, foot + 4), f"{time:.1f} s", FAINT if column < past else MARK, font(13), anchor="ma")
    if 0 < past < len(times):
        x = left + past * (thumb[0] + GAP) - GAP // 2
        pen.rectangle([(x - 1, top - 20), (x, foot + 18)], MARK)
        note, fits = f"trained horizon ends here ({horizon:.1f} s)", x < (left + right) // 2
        pen.text((x + 7 if fits else x - 8, top - 19), note, MARK, font(13), anchor="la" if fits else "ra")
    return page


def _width(text: str) -> int:
    return max(int(font(15).getlength(line)) for line in text.split("\n"))


def _thumbnail(image: NDArray[np.uint8]) -> Image.Image:
    """Whole-number enlargement keeps small pixels crisp and alike; large frames are filtered down."""
    picture = Image.fromarray(image)
    wide, high = picture.size
    if wide > LARGE:
        return picture.resize((LARGE, max(1, round(high * LARGE / wide))), Image.Resampling.LANCZOS)
    scale = max(1, SMALL // wide)
    return picture.resize((wide * scale, high * scale), Image.Resampling.NEAREST)


def save(page: Image.Image, path: Path) -> None:
    """Writes a PNG, whole or not at all; raises ``UserError`` where it cannot."""
    with replacing(path) as partial:
        page.save(partial, format="PNG", compress_level=COMPRESSION)


@cache
def font(size: int) -> Lettering:
    """A font that writes every script that some font of this machine has."""
    return Lettering(size)


def fitted(text: str, size: int, width: float, lines: int) -> str:
    """A text in at most so many lines of at most so many pixels, cut with an ellipsis where it is longer."""
    pen, rows, row = font(size), list[str](), ""
    for word in _words(" ".join(text.split())[:LONGEST]):
        if row and pen.getlength(row + word) > width:
            rows.append(row.rstrip())
            row = ""
            if len(rows) == lines:
                return "\n".join([*rows[:-1], _shortened(rows[-1], pen, width)])
        row += word if row else word.lstrip()
    return "\n".join([*rows, row.rstrip()] if row else rows or [""])


def _words(text: str) -> list[str]:
    """What may stand in different lines: words with the space before them, and letters of scripts without spaces."""
    return re.findall(rf" ?[{WIDE}]| ?[^ {WIDE}]{{1,24}}", text)


def _shortened(row: str, pen: Lettering, width: float) -> str:
    while row and pen.getlength(row + "…") > width:
        row = row[:-1]
    return row.rstrip() + "…"
