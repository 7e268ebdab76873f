"""How long a run takes and how large it becomes, from what a probe has measured and the budget has counted."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.backbones.base import VideoCodec
from rollforge.budget.memory_input import MemoryInput
from rollforge.data.requests import Request
from rollforge.doctor.probe import Probe, duration
from rollforge.snapshots.settings import Snapshots
from rollforge.snapshots.sizes import latents_bytes, snapshots_bytes

GUESS = 0.25  # bytes of a pixel in the mp4


def time_needed(probed: Probe, requests: Sequence[Request], seconds: float, policies: int) -> str:
    """The wall time of all videos, each ``seconds`` long and rolled under one or two policies, as a sentence."""
    total = probed.start + policies * sum(probed.seconds(request.frames) for request in requests)
    count = len(requests)
    of = f"{count} video{'s' if count > 1 else ''} of {seconds:g} s"
    if policies > 1:
        of += " under each of 2 policies"
    return f"About {duration(total)} for {of} on one device, by {len(probed.passes)} forward passes"


def video_bytes(
    requests: Sequence[Request], codec: VideoCodec | None, size: tuple[int, int], probed: Probe | None
) -> int:
    """Bytes of all mp4 files of one policy."""
    width, height = size
    frame = probed.frame_bytes if probed and probed.frame_bytes else GUESS * width * height
    return round(frame * sum(codec.pixel_frames(request.frames) if codec else request.frames for request in requests))


def kept_bytes(work: MemoryInput, settings: Snapshots, requests: Sequence[Request], probed: Probe | None) -> int:
    """Bytes of the snapshots of one process, and of the latents that it keeps."""
    seconds = probed.seconds(work.frames) if probed else None
    return snapshots_bytes(work, settings, seconds) + latents_bytes(work, settings, len(requests))
