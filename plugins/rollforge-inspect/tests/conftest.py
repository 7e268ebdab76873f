"""The videos in which one thing happens, written once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import events_on_video

from rollforge.video import writer


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One for each kind of event, and one of three seconds in which nothing happens."""
    folder = tmp_path_factory.mktemp("events")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SMALL", 1)
        made = {kind: events_on_video.write(folder, kind) for kind in events_on_video.CHANGES}
        made["short"] = events_on_video.write(folder / "short", "nothing", 3)
        yield made
