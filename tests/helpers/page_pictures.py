"""The pictures of a docs page: made by its code, and compared with, or copied to, those that the page shows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from page_blocks import REFRESH, refreshed
from PIL import Image
from sybil import Document, Example, Region

SHOWN = re.compile(r'!\[[^\]]*\]\((images/[^)\s]+)\)|src="(images/[^"]+)"')
SIDE = 32  # pixels of the thumbnails that are compared
LARGEST = 6.0  # of 255: the mean difference between two thumbnails of one picture, made on two machines


def parse_pictures(document: Document) -> Iterator[Region]:
    """One more region after the last block of a page."""
    end = len(document.text)
    yield Region(end, end, sorted({one or other for one, other in SHOWN.findall(document.text)}), finish)


def finish(example: Example) -> str | None:
    """Compares the pictures of a page, or writes them and the page again. Returns what differs."""
    page, folder = Path(example.path), example.namespace["__folder__"]
    missing = [name for name in example.parsed if not (folder / name).is_file()]
    if missing:
        return f"The page shows {missing[0]}, which its code does not make."
    if REFRESH and page.read_text() != example.document.text:
        return f"{page.name} was changed while it ran; run it again."
    if not REFRESH:
        differences = (_difference(page.parent / name, folder / name) for name in example.parsed)
        return next((difference for difference in differences if difference), None)
    for name in example.parsed:
        (page.parent / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / name, page.parent / name)
    if changes := example.namespace.get("__refreshed__"):
        page.write_text(refreshed(page.read_text(), changes))
    return None


def _difference(shown: Path, made: Path) -> str | None:
    """How a picture that was made now differs from the one that is shown; None where they are alike."""
    if not shown.is_file():
        return f"{shown.name} is not there; `make docs-refresh` writes it."
    one, other = (Image.open(file).convert("RGB") for file in (shown, made))
    if one.size != other.size:
        return f"{shown.name} has {one.size[0]}x{one.size[1]} pixels; the code made {other.size[0]}x{other.size[1]}."
    thumbnails = [np.asarray(each.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=float) for each in (one, other)]
    away = float(np.abs(thumbnails[0] - thumbnails[1]).mean())
    return f"{shown.name} differs from what the code made by {away:.1f} of 255." if away > LARGEST else None
