"""Prompts in, finished blocks with their pixel frames out, or clips; plain torch."""

from rollforge.pipeline.clip import Clip, Clips
from rollforge.pipeline.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout

__all__ = ["Clip", "Clips", "Pipeline", "VideoBlock", "VideoRollout"]
