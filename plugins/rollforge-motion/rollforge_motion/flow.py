"""A flow network behind ``Motion``: the part of kind ``flow``."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rollforge.errors import UserError
from rollforge.metrics.flow import Flow
from rollforge.ranges import Range, UserPath
from rollforge_motion.estimate import estimate
from rollforge_motion.limits import Iterations
from rollforge_motion.weights import Name, load

CELLS = 160
"""Of a picture at most, both ways."""


class RaftFlow(Flow, nn.Module):
    """Optical flow by RAFT (arXiv 2003.12039), of any of its three layouts.

    Args:
        weights: a file of safetensors, or of torch; as ``rollforge fit`` wrote it, or in torchvision's layout.
            Default: those trained on the procedural world, of layout ``tiny``.
        layout: ``tiny``, or ``small`` or ``large`` for those of torchvision.
        iterations: how often the flow is improved.
        longest: pictures with a longer side, in pixels, are made smaller; the flow is still in their own pixels.

    Raises:
        UserError: for weights that cannot be read, or of another layout, and for a ``longest`` that takes too much
            memory: the network compares each cell with each.
    """

    def __init__(
        self,
        weights: UserPath | None = None,
        layout: Name = "tiny",
        iterations: Iterations = 12,
        longest: Annotated[int, Range(16, 4096)] = 384,
    ) -> None:
        nn.Module.__init__(self)
        self.network = load(weights, layout).requires_grad_(False)
        if longest > (most := CELLS * self.network.layout.stride):
            raise UserError(
                f"RaftFlow.longest must be at most {most} with layout {layout}, not {longest}: beyond, comparing all "
                "cells of two pictures takes more than 4 GB."
            )
        self.iterations, self.longest = iterations, longest

    @torch.no_grad()
    def between(self, before: Tensor, after: Tensor) -> Tensor:
        pair = torch.stack([before, after]).permute(0, 3, 1, 2).float() / 127.5 - 1
        rows, columns = before.shape[:2]
        smaller = min(1.0, self.longest / max(rows, columns))
        if smaller < 1:
            size = max(1, round(rows * smaller)), max(1, round(columns * smaller))
            pair = interpolate(pair, size, mode="area")
        flow = estimate(self.network, pair[:1], pair[1:], self.iterations)
        scale = torch.tensor([columns / flow.shape[3], rows / flow.shape[2]]).to(flow)
        flow = flow * scale[:, None, None]
        if smaller < 1:
            flow = interpolate(flow, (rows, columns), mode="bilinear")
        return flow[0].permute(1, 2, 0)
