"""What is generated from prompts and first images, and the clips of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.data.clips import VideoClips, WorldClips
    from rollforge.data.prompt_clips import Prompts
    from rollforge.data.requests import Request, Shot, read_prompts
    from rollforge.data.trajectories import Trajectories

__all__ = [
    "Prompts",
    "Request",
    "Shot",
    "Trajectories",
    "VideoClips",
    "WorldClips",
    "read_prompts",
]

__getattr__ = lazily(
    __name__,
    {
        "Prompts": "prompt_clips",
        "Request": "requests",
        "Shot": "requests",
        "Trajectories": "trajectories",
        "VideoClips": "clips",
        "WorldClips": "clips",
        "read_prompts": "requests",
    },
)
