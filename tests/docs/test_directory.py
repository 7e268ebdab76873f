"""The pages that are generated name every package and every cache policy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import yaml
from packages import PACKAGES, importable, installed
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
LARGEST = 3_000_000  # bytes of all clips
PAPER = (238, 240, 243)


def test_the_plugin_directory_is_up_to_date(tmp_path: Path) -> None:
    found = importlib.util.spec_from_file_location("directory", DOCS / "directory.py")
    assert found
    assert found.loader
    directory = importlib.util.module_from_spec(found)
    found.loader.exec_module(directory)
    importable()
    with installed(PACKAGES, tmp_path):
        assert directory.page() == (DOCS / "directory.md").read_text(), "`make directory` writes it again."


def test_the_gallery_has_a_clip_and_a_plan_of_every_cache_policy() -> None:
    page, total, corners = (DOCS / "gallery.md").read_text(), 0, set()
    rows = yaml.safe_load((DOCS / "catalogue.yaml").read_text())
    for name in [row["part"] for row in rows if row.get("kind", "cache") == "cache"]:
        for file in (f"images/gallery/{name}.webp", f"images/gallery/{name}-plan.webp"):
            assert f"({file})" in page, "`make gallery` writes it again."
            total += (DOCS / file).stat().st_size
            with Image.open(DOCS / file) as clip:
                assert clip.n_frames >= 20
                corners.add(clip.convert("RGB").getpixel((clip.width - 1, 0)) if "-plan" in file else PAPER)
    assert total < LARGEST
    assert corners == {PAPER}, "Every plan has the same background: `make gallery ONLY=NAME` draws one again."
