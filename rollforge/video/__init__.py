"""Video files: written as the frames come, read back exactly, and laid out for looking at. Needs numpy, never torch."""

from rollforge.video.beside import side_by_side
from rollforge.video.reader import VideoInfo, frames, probe, read_clip
from rollforge.video.sheet import ContactSheet, compose
from rollforge.video.writer import VideoWriter

__all__ = ["ContactSheet", "VideoInfo", "VideoWriter", "compose", "frames", "probe", "read_clip", "side_by_side"]
