"""Stages after the codec: what becomes of pixel frames before they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.finish.base import Finish, FinishStream
    from rollforge.finish.enlarge import Enlarge

__all__ = ["Enlarge", "Finish", "FinishStream"]

__getattr__ = lazily(__name__, {"Enlarge": "enlarge", "Finish": "base", "FinishStream": "base"})
