"""How closely a video returns to its first frames. LoL calls a sudden return sink collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.metrics.strided_buffer import MinBuffer, StridedBuffer
from rollforge.state import Stateful

NAN = float("nan")
KEPT = 2048  # distances kept for the median, and lows kept for the minimum
SMOOTH = 5  # frames whose median is taken before a drop is looked for


class SinkReturn(Stateful):
    """Distances of thumbnails to the nearest of the first ``frames``.

    The median is exact up to 2,048 frames and taken over evenly spaced frames after that; lows and drops are exact.
    """

    def __init__(self, frames: int) -> None:
        self.frames, self.sink = frames, torch.zeros(0, 0)
        self.distances, self.lows = StridedBuffer(KEPT, 1), MinBuffer(KEPT, 1)
        self.recent: list[float] = []
        self.highest, self.drop, self.when = 0.0, 0.0, NAN

    def add(self, picture: Tensor, index: int) -> float:
        """Adds a thumbnail ``[P]``. Returns its root mean square distance to the sink."""
        if len(self.sink) < self.frames:
            self.sink = torch.cat([self.sink.reshape(-1, len(picture)), picture[None]])
        distance = (self.sink - picture).square().mean(dim=1).amin().sqrt()
        self.distances.add(distance[None])
        self.lows.add(distance[None])
        self.recent = [*self.recent, distance.item()][-SMOOTH:]
        smooth = sorted(self.recent)[len(self.recent) // 2]
        self.highest = max(self.highest, smooth)
        if self.highest - smooth > self.drop:
            self.drop, self.when = self.highest - smooth, float(index)
        return distance.item()

    def figures(self) -> tuple[float, float, float]:
        """Collapse, largest drop over the median distance, and the frame of that drop."""
        usual = self.distances.kept.flatten().quantile(0.5).item() if self.distances.seen else 0.0
        if usual <= 0:
            return NAN, NAN, NAN
        lows = self.lows.kept.flatten()
        late = lows[int((lows >= usual).float().argmax()) :]
        return max(0.0, 1 - late.amin().item() / usual), self.drop / usual, self.when
