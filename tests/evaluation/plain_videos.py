"""Metrics and videos whose figures can be told by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rollforge.metrics.base import Blocks, Metric
from rollforge.video.writer import VideoWriter


class Brightness(Metric):
    """The mean of each frame, in grey levels, and of all of them."""

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        self.sum, self.seen = 0.0, 0

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        means = frames.float().mean(dim=(1, 2, 3))
        self.sum, self.seen = self.sum + means.sum().item(), self.seen + len(frames)
        return {"brightness": means}

    def finish(self) -> dict[str, float]:
        return {"brightness_of_all": self.sum / self.seen}


class Fragile(Brightness):
    """Raises at the fourth frame."""

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        if start + len(frames) > 3:
            raise ZeroDivisionError("too much")
        return {"fragile": frames.float().mean(dim=(1, 2, 3))}


def ramp(frames: int, height: int = 16, width: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    """Noise that becomes brighter by a grey level with each frame, uint8 ``[T, H, W, 3]``."""
    noise = np.random.default_rng(seed).integers(0, 100, (1, height, width, 3))
    return (noise + np.arange(frames)[:, None, None, None]).astype(np.uint8)


def write_video(path: Path, video: NDArray[np.uint8], fps: float = 8.0, **how: Any) -> Path:
    with VideoWriter(path, (video.shape[2], video.shape[1]), fps, **{"crf": 0, **how}) as writer:
        writer.write(video)
    return path
