"""Text on pictures: each character in a font that has it, or written out as ``\\u96ea`` where none has.

Pillow's own font comes first, then DejaVu Sans, which comes with matplotlib and has Greek, Cyrillic, Arabic and Hebrew,
then the fonts of the machine, for Chinese, Japanese, Korean and other scripts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from unicodedata import bidirectional, category, normalize

from PIL import Image, ImageDraw, ImageFont, features

log = logging.getLogger(__name__)

Run = tuple[ImageFont.FreeTypeFont, str]
OWN, NONE = "", None  # in place of a font's path: Pillow's own font, and none at all


class Lettering(ImageFont.FreeTypeFont):
    """A font for ``ImageDraw`` that draws every script for which the machine has a font.

    Args:
        size: pixels of an em.
    """

    def __init__(self, size: int) -> None:
        super().__init__(BytesIO(_own()), size, layout_engine=ImageFont.Layout.BASIC)

    def getmask2(
        self, text: Any, mode: str = "", direction: Any = None, features: Any = None, language: Any = None,
        stroke_width: float = 0, anchor: str | None = None, *values: Any, **named: Any,
    ) -> Any:  # fmt: skip
        """What ``ImageDraw`` draws, and where."""
        runs = self._runs(text)
        if len(runs) == 1:
            font, plain = runs[0]
            how = (direction, features, language, stroke_width, anchor, *values)
            return ImageFont.FreeTypeFont.getmask2(font, plain, mode, *how, **named)
        width, above, below = self._extent(runs)
        page = Image.new("L", (width, above + below))
        pen, x = ImageDraw.Draw(page), 0.0
        for font, plain in runs:
            pen.text((x, above), plain, 255, font, anchor="ls")
            x += ImageFont.FreeTypeFont.getlength(font, plain)
        return page.im, _offset(anchor, width, above, below)

    def getlength(self, text: Any, *values: Any, **named: Any) -> float:
        """Its width in pixels."""
        return sum(ImageFont.FreeTypeFont.getlength(font, plain) for font, plain in self._runs(text))

    def getbbox(
        self, text: Any, mode: str = "", direction: Any = None, features: Any = None, language: Any = None,
        stroke_width: float = 0, anchor: str | None = None,
    ) -> Any:  # fmt: skip
        """Its bounding box in pixels."""
        runs = self._runs(text)
        if len(runs) == 1:
            font, plain = runs[0]
            how = (direction, features, language, stroke_width, anchor)
            return ImageFont.FreeTypeFont.getbbox(font, plain, mode, *how)
        width, above, below = self._extent(runs)
        x, y = _offset(anchor, width, above, below)
        return float(x), float(y), float(x + width), float(y + above + below)

    def _extent(self, runs: list[Run]) -> tuple[int, int, int]:
        """Width, and height above and below the line on which the letters stand."""
        width = sum(ImageFont.FreeTypeFont.getlength(font, plain) for font, plain in runs)
        heights = [font.getmetrics() for font, _ in runs]
        return round(width) + 1, max(above for above, _ in heights), max(below for _, below in heights)

    def _runs(self, text: Any) -> list[Run]:
        """The text in pieces of one font each."""
        words = text if isinstance(text, str) else bytes(text).decode("latin-1")
        size = int(self.size)
        return [(_opened(path, size) if path else self, piece) for path, piece in _pieces(words)]


def _pieces(text: str) -> list[tuple[str, str]]:
    """Pieces of a text, each with the path of a font that has all of it."""
    pieces = [(OWN, "")]
    clusters = _clusters(text)
    found = _fonts(frozenset(clusters))
    for cluster in clusters:
        font, path = found[cluster], pieces[-1][0]
        if font is NONE:
            font, cluster = OWN, "".join(letter.encode("unicode_escape").decode() for letter in cluster)
        elif font != path and bidirectional(cluster[0]) not in ("L", "R", "AL") and _has(path, cluster):
            font = path  # spaces and signs stay in their sentence, whichever way it is written
        if font == path or not pieces[-1][1]:
            pieces[-1] = (font, pieces[-1][1] + cluster)
        else:
            pieces.append((font, cluster))
    return pieces


def _clusters(text: str) -> list[str]:
    """Letters with the marks on them, without what is invisible."""
    clusters: list[str] = []
    for letter in normalize("NFC", text):
        if category(letter) == "Cf" or letter == "\ufe0f":
            continue
        if clusters and category(letter)[0] == "M":
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return clusters


_known: dict[str, str | None] = {}
"""The path of a font for each cluster that was ever asked for."""


def _fonts(clusters: frozenset[str]) -> dict[str, str | None]:
    left = {cluster for cluster in clusters if cluster not in _known}
    for path in _paths() if left else ():
        _known.update(dict.fromkeys(found := _in(path, frozenset(left)), path))
        left -= found
        if not left:
            break
    _known.update(dict.fromkeys(left, NONE))
    if strange := [cluster for cluster in left if category(cluster[0])[0] != "C"]:
        log.warning(
            "No font here has %s; such characters are written as \\u... in pictures. Install a font of their script, "
            "such as one of the Noto fonts.",
            " ".join(sorted(strange)[:5]),
        )
    return {cluster: _known[cluster] for cluster in clusters}


@cache
def _has(path: str, cluster: str) -> bool:
    return cluster in _in(path, frozenset([cluster]))


def _in(path: str, clusters: frozenset[str]) -> frozenset[str]:
    """Those that a font has, and that can be set in it. The font is closed again: there may be thousands."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(path or BytesIO(_own()))
        if not face.scalable or (path and not _opened(path, 15)):
            return frozenset()
    except (OSError, RuntimeError, ValueError):  # no font, or one that cannot be drawn
        return frozenset()
    return frozenset(
        cluster
        for cluster in clusters
        if all(face.get_char_index(ord(letter)) and _can_be_set(letter) for letter in cluster)
    )


def _can_be_set(letter: str) -> bool:
    """Whether it shows, and Pillow can join and turn the letters of its script, which takes the library raqm."""
    simple = bidirectional(letter) not in ("R", "AL") and category(letter)[0] != "M"
    return category(letter)[0] != "C" and (simple or bool(features.check("raqm")))


def _paths() -> Iterator[str]:
    """Pillow's own font, DejaVu Sans, then the fonts of the machine."""
    import matplotlib

    yield OWN
    yield str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    yield from _installed()


@cache
def _installed() -> tuple[str, ...]:
    """The fonts of the machine, those for many scripts first."""
    from matplotlib.font_manager import findSystemFonts

    def rank(path: str) -> tuple[bool, str]:
        name = Path(path).name.casefold()
        return not any(part in name for part in ("cjk", "fallback", "unifont", "unicode", "sans")), name

    return tuple(sorted(findSystemFonts(), key=rank))


@cache
def _own() -> bytes:
    """The file of Pillow's own font."""
    font = ImageFont.load_default(10)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return bytes(font.font_bytes)


@cache
def _opened(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _offset(anchor: str | None, width: int, above: int, below: int) -> tuple[int, int]:
    """Where the upper left corner lies, seen from the anchor."""
    across, down = (anchor or "la")[0], (anchor or "la")[1]
    x = {"l": 0, "m": -width // 2, "r": -width}[across]
    y = {"a": 0, "t": 0, "m": -(above + below) // 2, "s": -above, "b": -above - below, "d": -above - below}[down]
    return x, y
