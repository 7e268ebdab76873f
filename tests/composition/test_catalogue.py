"""The catalogue has a row, and for cache policies a picture, of every part that is a method of the field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packages import installed
from PIL import Image
from test_matrix import ROLLED

from rollforge.registry import registry

DOCS = Path(__file__).parents[2] / "docs"
ROWS = {(row.get("kind", "cache"), row["part"]): row for row in yaml.safe_load((DOCS / "catalogue.yaml").read_text())}
BUILT_IN, METHODS = "rollforge", ("sampler", "positions", "noise", "memory", "combine", "kv_codec")


@pytest.fixture(scope="module", autouse=True)
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed([name for name in ROLLED if name != "rollforge-frames"], tmp_path_factory.mktemp("site")):
        yield


def test_every_policy_and_every_part_of_a_package_has_a_row() -> None:
    wanted = {
        (part.kind, part.name)
        for part in registry().parts.values()
        if part.kind == "cache" or (part.kind in METHODS and part.origin != BUILT_IN)
    }
    assert wanted - ROWS.keys() == set()
    assert ROWS.keys() - {(part.kind, part.name) for part in registry().parts.values()} == set()
    for key, row in ROWS.items():
        assert all(str(row.get(field, "")).strip() for field in ("reads", "costs", "faithful", "origin", "licence")), (
            key
        )


def test_the_page_shows_every_row_and_every_picture() -> None:
    page = (DOCS / "catalogue.md").read_text()
    for (kind, name), row in ROWS.items():
        assert f"{row['reads']} |" in page, name
        assert row["faithful"] in page
        if kind == "cache":
            assert f"![Plan of {name}](images/plans/{name}.png)" in page
            with Image.open(DOCS / "images" / "plans" / f"{name}.png") as picture:
                assert picture.format == "PNG"
