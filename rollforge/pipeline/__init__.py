"""From prompts to finished blocks with their pixel frames, or to clips; plain torch."""

from rollforge.pipeline.clip import Clip, Clips
from rollforge.pipeline.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout

__all__ = ["Clip", "Clips", "Pipeline", "VideoBlock", "VideoRollout"]
