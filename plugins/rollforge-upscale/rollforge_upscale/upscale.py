"""Video super-resolution as a stage after the codec."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.backbones.weights import load_weights, named
from rollforge.errors import UserError
from rollforge.finish import Finish, FinishStream
from rollforge.ranges import Range, UserPath
from rollforge.state import State
from rollforge_upscale.network import FOLD, Recurrent

LEAST = 8
"""Pixels of the shorter edge of a frame."""
SHIPPED = "pocket"
SOFT = 0.1
"""Charbonnier's epsilon. Differences below it count as their squares: the codec is off by less almost everywhere."""


class Upscale(Finish):
    """Enlarges frames with a recurrent network that remembers earlier ones; one forward pass a frame, none ahead.

    Args:
        factor: of width and height.
        width: channels of the network.
        blocks: residual blocks of the network.
        weights: a safetensors file; ``pocket`` for the weights that come with the package (``factor`` 4, trained on
            what Pocket's codec decodes); ``random`` for random weights. Unset: random weights that ``fit`` trains;
            ``predict`` and ``test`` refuse them.

    Raises:
        UserError: for weights of another factor, width or number of blocks, and for frames that are too small, or
            whose edges are not even.
    """

    takes_crops = True

    def __init__(
        self,
        factor: Literal[2, 3, 4] = 4,
        width: Annotated[int, Range(8, 256)] = 32,
        blocks: Annotated[int, Range(1, 64)] = 2,
        weights: UserPath | None = None,
    ) -> None:
        super().__init__()
        self.factor, self.weights = factor, weights
        self.network = Recurrent(factor, width, blocks)
        if (file := named(weights)) is not None:
            load_weights(self, shipped() if file == SHIPPED else file, "finish")

    def stream(self) -> FinishStream:
        return _Video(self.network)

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        if min(width, height) < LEAST or width % FOLD or height % FOLD:
            raise UserError(
                f"Upscale takes frames of {LEAST} pixels or more with even edges, not {width}x{height}; take Enlarge, "
                "or, where training cuts frames, another size in the stages of model.multigrid."
            )
        return self.factor * width, self.factor * height

    def loss(self, decoded: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Charbonnier's loss, the root of the squared difference and a small constant; ``psnr`` in dB."""
        self.pixel_size(decoded.shape[-1], decoded.shape[-2])  # tiles may be of any size
        made = self.network(decoded)
        loss = (made - frames).square().add(SOFT**2).sqrt().sub(SOFT).mean() / SOFT
        return {"loss": loss, "psnr": -10 * functional.mse_loss(made.detach().clamp(0, 1), frames).log10()}


class _Video(FinishStream):
    """Frame by frame, so that a frame has the same bits wherever a block ends."""

    def __init__(self, network: Recurrent) -> None:
        self.network = network
        self.memory: Tensor | None = None

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        (batch, count, channels, height, width), factor = frames.shape, self.network.factor
        made = frames.new_empty(batch, count, channels, factor * height, factor * width)
        for n, frame in enumerate(frames.unbind(1)):
            self.memory = self.network.remember(frame, self.memory)
            torch.clamp(self.network.enlarge(frame, self.memory), 0, 1, out=made[:, n])
        return made

    def state_dict(self) -> State:
        return {"memory": None if self.memory is None else self.memory.clone()}

    def load_state_dict(self, state: State) -> None:
        memory = state["memory"]
        self.memory = None if memory is None else memory.to(self.network.last.weight.device)


def shipped() -> str:
    """The weights file that comes with the package."""
    return str(files("rollforge_upscale") / "weights" / f"{SHIPPED}.safetensors")
