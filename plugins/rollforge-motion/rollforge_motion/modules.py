"""What ``rollforge fit`` trains: a flow network on known motion, or refined on videos without any."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from rollforge.errors import UserError
from rollforge.lightning.fit_module import FitModule
from rollforge.objectives.base import Clips
from rollforge.ranges import Count, NonNegative, Positive, Range, UserPath, checked
from rollforge_motion.augment import cropped, recoloured
from rollforge_motion.estimate import estimate
from rollforge_motion.limits import Iterations
from rollforge_motion.losses import Agreement, cycle_loss, supervised, warp_loss
from rollforge_motion.raft import Raft
from rollforge_motion.weights import Name, load

PATIENCE = 20
"""Batches in a row without a kept pixel after which refinement ends."""


class FlowTraining(FitModule):
    """Trains a ``Raft``: AdamW, one cycle of the learning rate, gradients clipped by the Trainer."""

    def __init__(self, network: Raft, iterations: int, rate: float, gamma: float) -> None:
        super().__init__()
        self.network = network
        self.iterations, self.rate, self.gamma = iterations, rate, gamma

    @abstractmethod
    def losses(self, clips: Clips) -> dict[str, Tensor]:
        """See ``FitModule``."""

    def check(self, clip: Mapping[str, Any]) -> None:
        _ = self.steps

    def configure_optimizers(self) -> Any:
        """AdamW with weight decay 1e-5, and one cycle over ``trainer.max_steps``."""
        steps = self.steps
        optimizer = AdamW(self.network.parameters(), self.rate, weight_decay=1e-5)
        cycle = OneCycleLR(optimizer, self.rate, steps + 1, pct_start=0.05, anneal_strategy="linear")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def train(self, mode: bool = True) -> FlowTraining:
        """Batch norms keep their statistics: a batch of few pictures would spoil them."""
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self


@checked
class KnownMotion(FlowTraining):
    """Trains on pairs whose ``flow`` is known, as ``MovingWorld`` gives them.

    Args:
        layout: ``tiny``, or one of torchvision's.
        weights: to begin with. Default: random.
        iterations: of the network.
        rate: the highest learning rate.
        gamma: weight of each iteration in the loss, of that of the next.
    """

    def __init__(
        self,
        layout: Name = "tiny",
        weights: UserPath | None = None,
        iterations: Iterations = 6,
        rate: Positive = 1e-3,
        gamma: Annotated[float, Range(0, 1)] = 0.85,
    ) -> None:
        super().__init__(load(weights, layout) if weights else Raft(layout), iterations, rate, gamma)

    def losses(self, clips: Clips) -> dict[str, Tensor]:
        if "flow" not in clips:
            raise UserError("KnownMotion needs clips with their flow, as MovingWorld gives them.")
        before, after = pictures(clips["video"][:, 0]), pictures(clips["video"][:, 1])
        flow: Tensor = clips["flow"].permute(0, 3, 1, 2)
        before, after = recoloured(before, after)
        found = self.network(before, after, self.iterations)
        everywhere = torch.ones_like(flow[:, 0], dtype=torch.bool)
        error = (found[-1].detach() - flow).norm(dim=1).mean()
        return {"loss": supervised(found, flow, everywhere, self.gamma), "end_point_error": error}


@checked
class RefinedMotion(FlowTraining):
    """Refines a flow network on videos without known motion (arXiv 2401.00850).

    The network as it was labels pairs of frames both ways. It is trained on the pixels that agree, under augmentation.

    Args:
        weights: of the network to refine. Default: those trained on the procedural world.
        layout: ``tiny``, or one of torchvision's.
        loss: ``labels`` is the method; ``warp`` and ``cycle`` are the baselines, on the pictures and the flow there
            and back.
        furthest: how many frames apart the two frames of a pair are at most.
        share: of the lengths of both flows, by which they may disagree.
        pixels: by which they may disagree in addition.
        colour: by which colours in -0.5..0.5 may differ.
        crop: height and width of the crops. Default: three quarters of the pictures.
        label_iterations: of the network as it was.
        iterations: of the network in training.
        rate: the highest learning rate.
        gamma: weight of each iteration in the loss, of that of the next.
    """

    def __init__(
        self,
        weights: UserPath | None = None,
        layout: Name = "tiny",
        loss: Literal["labels", "warp", "cycle"] = "labels",
        furthest: Count = 8,
        share: NonNegative = Agreement.share,
        pixels: NonNegative = Agreement.pixels,
        colour: Positive = Agreement.colour,
        crop: tuple[Count, Count] | None = None,
        label_iterations: Iterations = 32,
        iterations: Iterations = 12,
        rate: Positive = 1e-4,
        gamma: Annotated[float, Range(0, 1)] = 0.85,
    ) -> None:
        super().__init__(load(weights, layout), iterations, rate, gamma)
        self.loss, self.furthest, self.crop, self.label_iterations = loss, furthest, crop, label_iterations
        self.agreement = Agreement(share, pixels, colour)
        self.labeller = deepcopy(self.network).eval().requires_grad_(False)
        self.without = 0  # batches in a row in which no pixel was kept

    def losses(self, clips: Clips) -> dict[str, Tensor]:
        before, after = pair(clips["video"], self.furthest)
        if self.loss != "labels":
            return {"loss": self._baseline(before, after)}
        forward = estimate(self.labeller, before, after, self.label_iterations)
        backward = estimate(self.labeller, after, before, self.label_iterations)
        kept = self.agreement.kept(forward, backward, before, after)
        self._check(int(kept.sum()))
        crop = self._crop(before)
        before, after, forward, kept = cropped(crop, *recoloured(before, after), forward, kept)
        found = self.network(before, after, self.iterations)
        return {"loss": supervised(found, forward, kept, self.gamma), "kept": kept.float().mean()}

    def _baseline(self, before: Tensor, after: Tensor) -> Tensor:
        """A loss without labels. Colours are changed alike, since one of them compares colours."""
        before, after = cropped(self._crop(before), *recoloured(before, after, apart=0))
        found = self.network(before, after, self.iterations)
        if self.loss == "warp":
            return warp_loss(found, before, after, self.gamma)
        return cycle_loss(found, self.network(after, before, self.iterations), self.gamma)

    def _crop(self, pictures: Tensor) -> tuple[int, int]:
        """The size of crops: multiples of the network's cell. Raises ``UserError`` for pictures that are too small."""
        layout, size = self.network.layout, pictures.shape[-2:]
        wanted = self.crop or [3 * length // 4 for length in size]
        room = [min(max(each, layout.least), length) for each, length in zip(wanted, size, strict=True)]
        height, width = (each // layout.stride * layout.stride for each in room)
        if min(height, width) < layout.least:
            raise UserError(
                f"The pictures are {size[1]}x{size[0]} pixels, and a network of this layout is trained on "
                f"{layout.least} pixels or more both ways; use larger pictures or layout tiny."
            )
        return height, width

    def _check(self, kept: int) -> None:
        self.without = 0 if kept else self.without + 1
        if self.without >= PATIENCE:
            raise UserError(
                f"In {PATIENCE} batches in a row the flow network found no consistent pixel, so that there is nothing "
                "to learn from; raise pixels or colour, or begin with weights that fit these videos better."
            )


def pictures(frames: Tensor) -> Tensor:
    """Frames uint8 ``[N, H, W, 3]`` as floats ``[N, 3, H, W]`` in -1..1."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def pair(video: Tensor, furthest: int) -> tuple[Tensor, Tensor]:
    """Two frames of clips uint8 ``[N, T, H, W, 3]``, at most ``furthest`` apart, for all of them the same two."""
    frames = video.shape[1]
    if frames < 2:
        raise UserError("The clips are one frame long, and motion needs two or more; raise frames of the dataset.")
    apart = int(torch.randint(1, min(furthest, frames - 1) + 1, ()))
    first = int(torch.randint(frames - apart, ()))
    return pictures(video[:, first]), pictures(video[:, first + apart])
