"""Optical flow: how far each pixel moves from one picture to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar, Literal, Self

import cv2
import torch
from torch import Tensor

from rollforge.borders import check_tensor
from rollforge.metrics.frames import Frame
from rollforge.ranges import Checked


class Flow(Checked, ABC):
    """Measures the motion between two pictures. Carries nothing from pair to pair, so that copies of a metric share it.

    A network may be a flow itself, as ``class Mine(Flow, nn.Module)``.
    """

    reads: ClassVar[Literal["rgb", "luma"]] = "rgb"
    """The input of ``between``: ``rgb``, uint8 ``[H, W, 3]``; or ``luma``, uint8 ``[H, W]``, as in ``Frame.luma``."""

    @abstractmethod
    def between(self, before: Tensor, after: Tensor) -> Tensor:
        """From two pictures on the CPU to floats ``[H, W, 2]`` there.

        In pixels: how far what lies at each pixel of ``before`` has moved to the right, and downwards, in ``after``.
        """

    def picture(self, frame: Frame) -> Tensor:
        """What it reads of a frame."""
        return torch.from_numpy(frame.luma if self.reads == "luma" else frame.rgb)

    def checked(self, before: Tensor, after: Tensor, when: str) -> Tensor:
        """The motion between two pictures. Raises ``WrongAnswer`` for a tensor of another shape."""
        field = self.between(before, after)
        return check_tensor("flow", self, field, when, (*before.shape[:2], 2), before.device)

    def shared(self, before: Tensor, frame: Frame, index: int) -> Tensor:
        """The motion from the picture ``before`` of frame ``index`` to ``frame``, measured once for all who ask."""
        key = id(self), index
        if key not in frame.flows:
            frame.flows[key] = self.checked(before, self.picture(frame), f"at frame {frame.index}")
        return frame.flows[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class DIS(Flow):
    """DIS optical flow of luma (preset ultrafast of OpenCV), without weights.

    A texture that moves as a whole by 2 to 5 pixels is measured to 5 %, by 1 pixel to 10 %.
    """

    reads = "luma"

    def between(self, before: Tensor, after: Tensor) -> Tensor:
        field = _dis().calc(before.numpy(), after.numpy(), None)  # type: ignore[call-overload] # no guess
        return torch.from_numpy(field)


@cache
def _dis() -> cv2.DISOpticalFlow:
    """Kept here and not in the part, since it can be neither copied nor saved; it remembers nothing."""
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
