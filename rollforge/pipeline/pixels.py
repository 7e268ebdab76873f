"""Pixel frames that a cache policy may request: to be encoded again, or to observe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rollforge.errors import UserError
from rollforge.rollout import Block, RolloutIterator
from rollforge.spec import Seen, Step
from rollforge.state import State, moved

if TYPE_CHECKING:
    from rollforge.pipeline.components import Components


class RecentPixels:
    """One pixel frame of each latent frame that is still live, for a policy that ``reencodes``.

    The policy's ``reencoded_pixel`` chooses it.

    Args:
        components: of the pipeline.
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        self.frames: dict[int, Tensor] = {}  # uint8 [B, H, W, 3]

    def encode(self, frame: int) -> Tensor:
        """The latent ``[B, 1, C, H, W]`` of a frame's pixels, encoded as the first frame of a video."""
        if frame not in self.frames:
            raise UserError(
                f"The cache policy asks for frame {frame} to be encoded again, which is not decoded yet. Ask for given "
                "frames when Start is announced, and for others when they are committed."
            )
        return self.components.encode(self.frames[frame][:, None].to(self.components.device))

    def add(self, run: RolloutIterator, block: Block, video: Tensor) -> None:
        """Stores, and passes to the policy, the pixel frames of a block that it requests, uint8 ``[B, T, H, W, 3]``."""
        policy, count, stop = run.policy, self.components.codec.pixel_frames, block.start + block.latents.shape[1]
        if policy.reencodes:
            first = count(block.start) if block.start else 0
            for frame in range(block.start, stop):
                pixels = video[:, (count(frame) if frame else 0) - first : count(frame + 1) - first]
                self.frames[frame] = pixels[:, policy.reencoded_pixel].clone()
            self.frames = {frame: kept for frame, kept in self.frames.items() if frame in run.passes.finished}
        if "pixels" in policy.sees:
            shown = video.float() / 255
            step = Step(block.index, block.start, self.components.backbone.spec.block, count=stop - block.start)
            with run.passes.asking("to observe pixel frames", step):
                policy.observe(step, None, Seen(pixels=shown if "pixels" in policy.whole else shown.mean((2, 3))))

    def state_dict(self) -> State:
        """The frames that are kept."""
        return {"frames": self.frames}

    def load_state_dict(self, state: State) -> None:
        """Restores what ``state_dict`` returned."""
        self.frames = moved(state["frames"], "cpu")
