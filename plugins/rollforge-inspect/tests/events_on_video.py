"""Small videos in which one thing happens, at a known time: a textured ground, a ball that moves, grain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.video.writer import VideoWriter

SIZE, FPS, SECONDS = 64, 4.0, 100
Frame = NDArray[np.float64]
Change = Callable[[Frame, float], Frame]
TRUTH = {"cut": (36.0, 38.0), "object": (80.0, 82.0), "drift": (30.0, 60.0), "nothing": None}
"""A second on each side of a cut and of a vanishing; a drift from its onset to its end."""


def texture(seed: int) -> Frame:
    """A smooth texture, ``[SIZE, SIZE, 3]``."""
    coarse = np.random.default_rng(seed).uniform(60, 160, (8, 8, 3))
    return np.kron(coarse, np.ones((SIZE // 8, SIZE // 8, 1)))


GROUND, OTHER = texture(1), texture(2)


def cut(frame: Frame, at: float) -> Frame:
    return frame if at < 37 else frame - GROUND + OTHER


def thing(frame: Frame, at: float) -> Frame:
    if at < 81:
        frame[12:26, 40:54] = (200, 40, 40)
    return frame


def drift(frame: Frame, at: float) -> Frame:
    return frame + np.array([40.0, 0.0, -30.0]) * np.clip((at - 30) / 30, 0, 1)


def nothing(frame: Frame, at: float) -> Frame:
    return frame


CHANGES: dict[str, Change] = {"cut": cut, "object": thing, "drift": drift, "nothing": nothing}


def write(folder: Path, kind: str, seconds: float = SECONDS) -> Path:
    """The video in which that happens."""
    chance, path = np.random.default_rng(0), folder / f"{kind}.mp4"
    folder.mkdir(exist_ok=True)
    with VideoWriter(path, (SIZE, SIZE), FPS) as writer:
        for number in range(int(seconds * FPS)):
            at = number / FPS
            frame = GROUND.copy()
            across = int(32 + 20 * np.sin(at / 3))
            frame[40:50, across - 5 : across + 5] = (40, 60, 200)
            frame = CHANGES[kind](frame, at) + chance.normal(0, 3, GROUND.shape)
            writer.write(frame.clip(0, 255).round().astype(np.uint8)[None])
    return path


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, shared) / (max(one[1], other[1]) - min(one[0], other[0]))
