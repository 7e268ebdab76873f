"""The dataset: a shape that moves in a straight line and bounces off the borders of the picture."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from rollforge.data.clips import Epoch
from rollforge.ranges import Checked, CountFromZero, Range

SIZE, RADIUS, SPEED = 64, 18.0, 3.2  # pixels, and pixels per frame
SHAPES = ("circle", "square", "triangle")
COLOURS = np.array([(230, 60, 60), (70, 200, 90), (80, 130, 255), (240, 200, 60)])
BACKGROUND = np.array((16, 16, 32))


class MovingShapes(Checked, Dataset[dict[str, Any]]):
    """Clips of a bouncing circle, square or triangle. The caption names the shape; only the picture shows its colour.

    Args:
        frames: frames of a clip.
        clips: clips of an epoch; clip n is the same on every machine.
        seed: of all clips.
    """

    def __init__(
        self, frames: Annotated[int, Range(1, 100_000)] = 8, clips: Epoch = 1_000_000, seed: CountFromZero = 0
    ) -> None:
        self.frames, self.clips, self.seed = frames, clips, seed

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        drawn = np.random.default_rng((self.seed, index))
        shape, colour = str(drawn.choice(SHAPES)), drawn.choice(COLOURS)
        start, angle = drawn.uniform(RADIUS, SIZE - RADIUS, 2), drawn.uniform(0, 2 * np.pi)
        velocity = SPEED * np.array((np.cos(angle), np.sin(angle)))
        centres = bounced(start + velocity * np.arange(self.frames)[:, None])
        video = np.stack([picture(shape, colour, centre) for centre in centres])
        return {"video": torch.from_numpy(video), "caption": shape}


def bounced(position: np.ndarray) -> np.ndarray:
    """Positions on an endless line, folded back between the borders."""
    free = SIZE - 2 * RADIUS
    return RADIUS + free - np.abs((position - RADIUS) % (2 * free) - free)


def picture(shape: str, colour: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """One frame, uint8 ``[SIZE, SIZE, 3]``."""
    x, y = np.arange(SIZE) + 0.5 - centre[0], np.arange(SIZE)[:, None] + 0.5 - centre[1]
    inside = {
        "circle": np.hypot(x, y) < RADIUS,
        "square": np.maximum(np.abs(x), np.abs(y)) < 0.85 * RADIUS,
        "triangle": (y < 0.7 * RADIUS) & (np.abs(x) < 0.6 * (y + RADIUS)),
    }[shape]
    return np.where(inside[..., None], colour, BACKGROUND).astype(np.uint8)
