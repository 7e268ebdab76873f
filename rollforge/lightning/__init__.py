"""The Lightning side: the modules, the data module and the callback that writes videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.lightning.data import RolloutData
    from rollforge.lightning.fit_module import FitModule
    from rollforge.lightning.module import RolloutModule
    from rollforge.lightning.video_output import VideoOutput

__all__ = [
    "FitModule",
    "RolloutData",
    "RolloutModule",
    "VideoOutput",
]

__getattr__ = lazily(
    __name__,
    {
        "FitModule": "fit_module",
        "RolloutData": "data",
        "RolloutModule": "module",
        "VideoOutput": "video_output",
    },
)
