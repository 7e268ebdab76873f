"""Flow between pictures of any size, and pictures and flows read where a flow leads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from rollforge_motion.raft import Raft


@torch.no_grad()
def estimate(network: Raft, before: Tensor, after: Tensor, iterations: int) -> Tensor:
    """The last flow ``[N, 2, H, W]`` in pixels between pictures ``[N, 3, H, W]`` in -1..1 of any size."""
    rows, columns = before.shape[-2:]
    stride, least = network.layout.stride, network.layout.least
    right, below = (max(least, -(-length // stride) * stride) - length for length in (columns, rows))
    pair = [pad(each, (0, right, 0, below), mode="replicate") for each in (before, after)]
    return network(pair[0], pair[1], iterations)[-1][..., :rows, :columns]


def moved(flow: Tensor) -> Tensor:
    """Where each pixel of a flow ``[N, 2, H, W]`` leads, x and y, ``[N, 2, H, W]``."""
    y, x = torch.meshgrid(*(torch.arange(length) for length in flow.shape[-2:]), indexing="ij")
    return torch.stack([x, y]).to(flow) + flow


def inside(flow: Tensor) -> Tensor:
    """Whether it leads to a place in the picture, ``[N, H, W]``."""
    x, y = moved(flow).unbind(1)
    rows, columns = flow.shape[-2:]
    return (x >= 0) & (y >= 0) & (x <= columns - 1) & (y <= rows - 1)


def warped(values: Tensor, flow: Tensor) -> Tensor:
    """Values ``[N, C, H, W]`` read where the flow leads; 0 outside of the picture."""
    rows, columns = flow.shape[-2:]
    most = torch.tensor([columns - 1, rows - 1]).to(flow)
    places = 2 * moved(flow).permute(0, 2, 3, 1) / most - 1
    return grid_sample(values, places, align_corners=True)
