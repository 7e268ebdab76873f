"""Pictures of flow: the hue is the direction, the saturation the length."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def coloured(flow: Tensor, most: float) -> NDArray[np.uint8]:
    """A flow ``[H, W, 2]`` as a picture ``[H, W, 3]``: white stands still, full colour moves by ``most`` pixels.

    To the right is red, downwards yellow-green, to the left cyan, upwards violet.
    """
    x, y = flow.numpy()[..., 0], flow.numpy()[..., 1]
    hue = np.degrees(np.arctan2(y, x)) % 360 / 2 % 180
    strength = 255 * np.minimum(1, np.hypot(x, y) / most)
    hsv = np.stack([hue, strength, np.full_like(hue, 255)], -1).round().astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
