"""The folder for files that can be recreated."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """``rollforge/NAME`` in the user's cache folder (XDG base directory specification)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "rollforge" / name
