"""The memory of a pass and of a training step is counted, not guessed, for a network that is not shaped like Wan."""

from __future__ import annotations

import torch
from rollforge_frames import FrameTransformer, MovingShapes, ShapeNames, SmallPictures

from rollforge.memory import RolloutMemory
from rollforge.objectives.flow import DiffusionForcing
from rollforge.training_budget.step import step_bytes


def test_a_training_step_of_a_class_conditional_network_is_counted() -> None:
    parts = {
        "backbone": FrameTransformer(dim=32), "codec": SmallPictures(), "conditioner": ShapeNames(),
        "positions": FrameTransformer.positions, "memory": RolloutMemory, "kv_codec": None, "combine": None, "step": 0,
    }  # fmt: skip
    video = (4, *MovingShapes()[0]["video"].shape)
    counted = step_bytes(
        DiffusionForcing(), parts, video, dtype=None, half=None, device="cpu", kept_gradients=False
    )  # fmt: skip
    gradients = sum(weight.nbytes for weight in parts["backbone"].parameters())  # type: ignore[attr-defined]
    latents = 4 * 8 * 3 * 16 * 16 * torch.float32.itemsize
    assert counted is not None
    assert counted > gradients + latents
