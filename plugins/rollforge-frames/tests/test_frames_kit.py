"""Every component passes the checks of rollforge.testing."""

from __future__ import annotations

import torch
from plain_forward import clean_frames
from rollforge_frames import FrameTransformer, ShapeNames, SmallPictures
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.testing import check_backbone, check_codec, check_conditioner


def test_the_network_passes_the_kit(network: FrameTransformer) -> None:
    def reference(latents: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        frames = latents.shape[1]
        earlier = torch.ones(frames, frames, dtype=torch.bool).tril()  # as many as the window holds
        shape = condition.extra["shape"][:, 0]
        return clean_frames(network.state_dict(), 2, latents, timesteps / 1000, shape, torch.arange(frames), earlier)

    check_backbone(network, ShapeNames()(["circle", "triangle"]), reference=reference)


def test_the_codec_passes_the_kit() -> None:
    check_codec(SmallPictures(scale=2), channels=3)


def test_the_conditioner_passes_the_kit() -> None:
    check_conditioner(ShapeNames(), ("circle", "square"))
