"""Two videos side by side, labelled, with the time and the trained horizon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rollforge.video.reader import frames, probe
from rollforge.video.sheet import FAINT, INK, MARK, PAPER, font
from rollforge.video.writer import VideoWriter

BAR, FOOT, GAP = 36, 28, 8  # pixels


def side_by_side(paths: tuple[Path, Path], labels: tuple[str, str], out: Path, horizon: float | None = None) -> None:
    """Writes ``out``: both videos frame by frame; past ``horizon`` seconds the clock turns red."""
    info = probe(paths[0])
    width, height = 2 * info.width + GAP, info.height + BAR + FOOT
    with VideoWriter(out, (width + width % 2, height + height % 2), info.fps) as writer:
        for n, pair in enumerate(zip(frames(paths[0]), frames(paths[1]), strict=False)):
            writer.write(_page(pair, labels, n / info.fps, info.frames / info.fps, horizon, writer.size)[None])


def _page(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    labels: tuple[str, str],
    time: float,
    seconds: float,
    horizon: float | None,
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    high, wide = pair[0].shape[:2]
    for n, (image, label) in enumerate(zip(pair, labels, strict=True)):
        page.paste(Image.fromarray(image), (n * (wide + GAP), BAR))
        pen.text((n * (wide + GAP) + wide // 2, BAR // 2), label, INK, font(20), anchor="mm")
    past = horizon is not None and time > horizon
    y = BAR + high + 4
    pen.line([(0, y), (round(size[0] * time / seconds), y)], MARK if past else FAINT, 4)
    note = f"{time:.1f} s" + (f"   past the trained horizon ({horizon:.1f} s)" if past else "")
    pen.text((8, y + 5), note, MARK if past else FAINT, font(15))
    if horizon is not None:
        x = round(size[0] * horizon / seconds)
        pen.line([(x, y - 4), (x, y + 4)], MARK, 2)
    return np.asarray(page)
