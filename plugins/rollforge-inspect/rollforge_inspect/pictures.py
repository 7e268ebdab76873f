"""Frames as JPEG."""

from __future__ import annotations

import cv2

from rollforge_inspect.video import Frames

QUALITY = 85


def jpeg(frame: Frames) -> bytes:
    """A frame, RGB uint8 ``[H, W, 3]``, as a JPEG file."""
    _, content = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return content.tobytes()
