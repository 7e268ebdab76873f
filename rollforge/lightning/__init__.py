"""The Lightning side: the module, the data module and the callback that writes videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.lightning.data import RolloutData
    from rollforge.lightning.module import RolloutModule
    from rollforge.lightning.video_output import VideoOutput

__all__ = [
    "RolloutData",
    "RolloutModule",
    "VideoOutput",
]

__getattr__ = lazily(
    __name__,
    {
        "RolloutData": "data",
        "RolloutModule": "module",
        "VideoOutput": "video_output",
    },
)
