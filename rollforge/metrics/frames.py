"""Measures that look at one frame after another and share what they compute of it."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollforge.metrics.base import Blocks, Metric

THUMBNAIL = 16  # pixels, both ways
Image = NDArray[np.uint8]


class Frame:
    """One frame and what several measures need of it, computed when first asked for.

    Args:
        rgb: uint8 ``[H, W, 3]``.
        index: of the frame in the video.
        previous: the previous frame, if there is one.
    """

    def __init__(self, rgb: Image, index: int, previous: Frame | None = None) -> None:
        self.rgb, self.index, self.previous = np.ascontiguousarray(rgb), index, previous
        self.flows: dict[tuple[int, int], Tensor] = {}  # by the flow, and the frame it is measured from

    @cached_property
    def luma(self) -> Image:
        """Rec. 601 luma of the gamma-coded values, rounded: uint8 ``[H, W]``."""
        return np.asarray(cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY), np.uint8)

    @cached_property
    def lab(self) -> Image:
        """CIE LAB (D65) in eight bits: lightness ``L * 255 / 100``, ``a + 128``, ``b + 128``; uint8 ``[H, W, 3]``."""
        return np.asarray(cv2.cvtColor(self.rgb, cv2.COLOR_RGB2LAB), np.uint8)

    @cached_property
    def thumbnail(self) -> NDArray[np.float32]:
        """Luma averaged over areas, in whole grey levels less 128: float32 ``[256]``; sums of products are exact."""
        small = cv2.resize(self.luma, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.float32).ravel() - 128

    @cached_property
    def change(self) -> NDArray[np.int16] | None:
        """This frame less the one before, int16 ``[H, W, 3]``."""
        if self.previous is None:
            return None
        return np.asarray(cv2.subtract(self.rgb, self.previous.rgb, dtype=cv2.CV_16S), np.int16)

    @cached_property
    def step(self) -> float:
        """Mean absolute difference from the frame before in grey levels, NaN without one."""
        if self.previous is None:
            return float("nan")
        return cv2.norm(self.rgb, self.previous.rgb, cv2.NORM_L1) / self.rgb.size


class FrameMetric(Metric):
    """A metric that is computed frame by frame. It holds two frames, whatever the length of the video."""

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        self.fps = fps
        self.first_block, self.block = (blocks.first, blocks.period) if blocks else (0, 0)  # 0: not known
        self.recent = torch.zeros(0, 0, 0, 3, dtype=torch.uint8)  # the last frames, two at most
        self.next = 0
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Resets the state of the previous video."""

    @abstractmethod
    def look(self, frame: Frame) -> dict[str, float]:
        """Measures one frame: the same names each time."""

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        previous = None
        if start == self.next:
            for n, rgb in enumerate(self.recent.numpy()):
                previous = Frame(rgb, start - len(self.recent) + n, previous)
        curves: dict[str, list[float]] = {}
        for index, rgb in enumerate(frames.cpu().numpy(), start):
            frame = Frame(rgb, index, previous)
            for name, value in self.look(frame).items():
                curves.setdefault(name, []).append(value)
            if frame.previous is not None:
                frame.previous.previous = None  # so that no chain of frames grows
            previous = frame
        kept = [one.rgb for one in (previous.previous if previous else None, previous) if one is not None]
        if kept:
            self.recent = torch.from_numpy(np.stack(kept))
        self.next = start + len(frames)
        return {name: torch.tensor(values) for name, values in curves.items()}
