"""The network that is trained: a small convolutional encoder of short clips."""

from __future__ import annotations

from typing import Annotated, cast

from torch import Tensor, nn

from rollforge.ranges import Range, fitted

WIDTH = 96
"""Channels of a feature."""
SIZE = 64
"""Height and width of what it reads, in pixels."""
Width = Annotated[int, Range(16, 4096, step=16)]
Hidden = Annotated[int, Range(1, 4096)]
"""Channels in a projection."""


class Encoder(nn.Module):
    """Clips to features: three spatial stages, of which the last sees three frames at a time, then the mean.

    Group norm inside, and batch norm without weights at the end: without it features collapse onto two directions in
    the first steps. 0.22M parameters at the default width.

    Args:
        width: channels of a feature, a multiple of 16 up to 4,096.

    Raises:
        UserError: for another width.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        fitted("Encoder", {"width": Width}, {"width": width})
        self.width = width
        self.frames = nn.Sequential(
            nn.Conv2d(3, width // 4, 7, stride=4, padding=3),
            nn.GroupNorm(4, width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1),
            nn.GroupNorm(4, width // 2),
            nn.ReLU(),
        )
        self.time = nn.Sequential(
            nn.Conv3d(width // 2, width, 3, stride=(2, 2, 2), padding=1, padding_mode="replicate"),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1)),
        )
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Features ``[B, width]`` of clips ``[B, T, 3, H, W]`` in 0..1; one frame is a clip too."""
        batch = len(clips)
        seen = self.frames((clips.flatten(0, 1) - 0.5) / 0.25)  # [B T, C, H/8, W/8]
        seen = self.time(seen.unflatten(0, (batch, -1)).transpose(1, 2))  # [B, width, T/2, H/16, W/16]
        return cast("Tensor", self.norm(seen.mean((2, 3, 4))))


def mlp(layers: int, wide: int, hidden: int, out: int, batch_norm: bool = False) -> nn.Sequential:
    """A projection of ``layers`` linear layers, ReLU between them, with batch norm before it where asked."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(wide, hidden), *([nn.BatchNorm1d(hidden)] if batch_norm else []), nn.ReLU()]
        wide = hidden
    return nn.Sequential(*parts, nn.Linear(wide, out))
