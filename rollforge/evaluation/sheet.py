"""Contact sheets of clips."""

from __future__ import annotations

from collections.abc import Mapping

from PIL.Image import Image

from rollforge.pipeline import Clip
from rollforge.video.sheet import ContactSheet, draw


def contact_sheet(clips: Mapping[str, Clip], title: str = "", horizon: float | None = None, count: int = 12) -> Image:
    """One row for each clip, frames at the same times under each other: a picture to save or to show in a notebook.

    Args:
        clips: by the label of their row; all of one length and frame rate.
        title: above the rows.
        horizon: seconds, after which frames are marked as past the trained horizon.
        count: frames in a row.

    Raises:
        UserError: for no clips, or clips of different lengths.
    """
    sheets = []
    for label, clip in clips.items():
        sheets.append(ContactSheet(label, len(clip.frames), clip.fps, count))
        sheets[-1].add(clip.frames.numpy())
    return draw(sheets, title, horizon)
