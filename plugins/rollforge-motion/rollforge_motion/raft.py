"""RAFT (arXiv 2003.12039) in three sizes: the published large and small one, and one for small pictures.

The parameters have the names and shapes of torchvision's, so that its files of weights can be read without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, unfold

from rollforge_motion.layers import (
    Bottleneck,
    Encoder,
    FlowHead,
    MaskPredictor,
    MotionEncoder,
    Recurrent,
    Residual,
    Update,
)


@dataclass(frozen=True)
class Layout:
    """Sizes of a network: channels of the encoders, of the motion encoder and of the recurrence."""

    block: type[Residual | Bottleneck]
    features: tuple[int, ...]
    context: tuple[int, ...]
    levels: int
    radius: int
    correlation: tuple[int, ...]
    flow: tuple[int, int]
    motion: int
    hidden: int
    kernels: tuple[tuple[int, int], ...]
    head: int
    mask: int | None
    context_norm: type[nn.BatchNorm2d] | None = None
    strides: tuple[int, ...] = (2, 1, 2, 2)

    @property
    def stride(self) -> int:
        """Pixels of a cell, both ways."""
        return prod(self.strides)

    @property
    def least(self) -> int:
        """Pixels that a picture must have both ways: two cells are left at the last level of the correlations."""
        return self.stride * 2**self.levels


LAYOUTS = {
    "large": Layout(
        Residual, (64, 64, 96, 128, 256), (64, 64, 96, 128, 256), 4, 4, (256, 192), (128, 64), 128, 128,
        ((1, 5), (5, 1)), 256, 256, nn.BatchNorm2d,
    ),
    "small": Layout(
        Bottleneck, (32, 32, 64, 96, 128), (32, 32, 64, 96, 160), 4, 3, (96,), (64, 32), 82, 96, ((3, 3),), 128, None
    ),
    "tiny": Layout(
        Residual, (16, 16, 24, 24, 32), (16, 16, 24, 24, 56), 2, 3, (32,), (24, 16), 32, 28, ((3, 3),), 48, 48,
        strides=(2, 1, 2, 1),
    ),
}  # fmt: skip


class Raft(nn.Module):
    """Optical flow by repeated look-ups in the correlations of two pictures."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = sizes = LAYOUTS[layout]
        self.feature_encoder = Encoder(sizes.block, sizes.features, sizes.strides, nn.InstanceNorm2d)
        self.context_encoder = Encoder(sizes.block, sizes.context, sizes.strides, sizes.context_norm)
        looked = sizes.levels * (2 * sizes.radius + 1) ** 2
        context = sizes.context[-1] - sizes.hidden
        self.update_block = Update(
            MotionEncoder(looked, sizes.correlation, sizes.flow, sizes.motion),
            Recurrent(sizes.hidden, context + sizes.motion, sizes.kernels),
            FlowHead(sizes.hidden, sizes.head),
        )
        self.mask_predictor = MaskPredictor(sizes.hidden, sizes.mask, sizes.stride) if sizes.mask else None

    def forward(self, before: Tensor, after: Tensor, iterations: int) -> list[Tensor]:
        """From pictures ``[N, 3, H, W]`` in -1..1 to the flow ``[N, 2, H, W]`` (x, y) in pixels after each iteration.

        Height and width are multiples of ``layout.stride``, and ``layout.least`` at least.
        """
        first, second = self.feature_encoder(torch.cat([before, after])).chunk(2)
        correlations = Correlations(first, second, self.layout.levels, self.layout.radius)
        state, context = self.context_encoder(before).split(
            [self.layout.hidden, self.layout.context[-1] - self.layout.hidden], 1
        )
        hidden, context = state.tanh(), context.relu()
        flow = torch.zeros_like(first[:, :2])
        found = []
        for _ in range(iterations):
            flow = flow.detach()
            hidden, change = self.update_block(hidden, context, correlations.at(flow), flow)
            flow = flow + change
            found.append(self._enlarged(flow, hidden))
        return found

    def _enlarged(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """A flow in cells as one in pixels: each pixel a mean of nine cells, or interpolated."""
        stride = self.layout.stride
        if self.mask_predictor is None:
            return stride * interpolate(flow, scale_factor=stride, mode="bilinear", align_corners=True)
        samples, _, rows, columns = flow.shape
        shares = self.mask_predictor(hidden).view(samples, 1, 9, stride, stride, rows, columns).softmax(2)
        cells = unfold(stride * flow, 3, padding=1).view(samples, 2, 9, 1, 1, rows, columns)
        fine = (shares * cells).sum(2).permute(0, 1, 4, 2, 5, 3)
        return fine.reshape(samples, 2, rows * stride, columns * stride)


class Correlations:
    """Inner products of all cells of two feature maps, and their means over larger and larger cells of the second."""

    def __init__(self, first: Tensor, second: Tensor, levels: int, radius: int) -> None:
        samples, channels, rows, columns = first.shape
        self.shape = samples, rows, columns
        volume = first.flatten(2).transpose(1, 2) @ second.flatten(2) / channels**0.5
        volume = volume.view(-1, 1, rows, columns)
        self.levels = [volume]
        for _ in range(levels - 1):
            self.levels.append(avg_pool2d(self.levels[-1], 2))
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        self.cells = torch.stack([x, y]).to(first)
        steps = torch.arange(-radius, radius + 1).to(first)
        # the horizontal offset varies slowest, which is the order of the published weights
        self.offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)

    def at(self, flow: Tensor) -> Tensor:
        """The correlations around where the flow ``[N, 2, h, w]`` leads: ``[N, levels (2 r + 1)^2, h, w]``."""
        samples, rows, columns = self.shape
        centres = (self.cells + flow).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        found = []
        for n, volume in enumerate(self.levels):
            most = torch.tensor([volume.shape[3] - 1, volume.shape[2] - 1]).to(flow)
            places = 2 * (centres / 2**n + self.offsets) / most - 1
            found.append(grid_sample(volume, places, align_corners=True).view(samples, rows, columns, -1))
        return torch.cat(found, -1).permute(0, 3, 1, 2)
