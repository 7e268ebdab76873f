"""The checks of objectives and datasets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.finish import Finish, FinishStream
from rollforge.objectives.base import Objective
from rollforge.pipeline import Pipeline
from rollforge.policies.window import Window
from rollforge.samplers.few_step import FewStep
from rollforge.testing.rules import expect, fail, keeping

FRAMES, SIDE = 9, 64


class Brightness(Finish):
    """A stage of one weight, to be trained: multiplies pixels."""

    takes_crops = True

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.gain = "random", nn.Parameter(torch.tensor(0.5))

    def stream(self) -> FinishStream:
        raise NotImplementedError

    def loss(self, decoded: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """The mean squared error."""
        return {"loss": (self.gain * decoded - frames).square().mean()}


def check_objective(objective: Objective) -> None:
    """Checks an objective with two clips of noise and a small Pocket.

    Raises:
        CheckFailed: with the rule and the losses.
    """
    backbone = Pocket(dim=32, layers=1, heads=2, ffn_dim=64, window=FRAMES, horizon=FRAMES, weights="random")
    codec = PocketCodec(width=16, weights="random")
    pipeline = Pipeline(
        backbone=backbone, conditioner=PocketText(), codec=codec, policy=Window(2), sampler=FewStep((1000,)),
        finish=Brightness(),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    video = torch.randint(0, 256, (2, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    with keeping("objective-loss", objective, f"For 2 clips of {FRAMES} frames"):
        losses = objective(pipeline, {"video": video, "caption": ["a red ball over snow at day"] * 2})
        trained = list(getattr(pipeline, objective.trains).parameters())
        problem = f"It answers {losses!r:.200}."
        finite = all(value.dim() == 0 and bool(value.isfinite()) for value in losses.values())
        expect("loss" in losses and finite, "objective-loss", objective, problem)
        losses["loss"].backward()
    expect(
        any(weight.grad is not None and bool(weight.grad.any()) for weight in trained), "objective-gradient", objective,
        f"After loss.backward() none of the {len(trained)} parameters of the {objective.trains} has a gradient but 0.",
    )  # fmt: skip


def check_dataset(dataset: Any) -> None:
    """Checks the first and the last clips of a dataset.

    Raises:
        CheckFailed: with the rule and the clip.
    """
    with keeping("dataset-clip", dataset, "Asked for its length"):
        length = len(dataset)
    sizes: dict[tuple[int, ...], int] = {}
    for index in sorted({0, 1, length - 1} & {*range(length)}):
        with keeping("dataset-clip", dataset, f"At clip {index}"):
            one, other = dataset[index], dataset[index]
        if not _is_clip(one):
            fail("dataset-clip", dataset, f"Clip {index} is {_described(one)}.")
        videos = one.get("video"), other.get("video")
        alike = one["caption"] == other["caption"] and (videos == (None, None) or torch.equal(*videos))
        expect(alike, "dataset-repeat", dataset, f"Clip {index} is another one when it is asked for again.")
        if videos[0] is not None:
            sizes[tuple(videos[0].shape)] = index
        expect(len(sizes) < 2, "dataset-clip", dataset, f"Clips have the sizes {list(sizes)}.")


def _is_clip(clip: Any) -> bool:
    try:
        if {*clip} - {"source"} == {"caption"}:
            return isinstance(clip["caption"], str)
        video, caption = clip["video"], clip["caption"]
    except (TypeError, KeyError):
        return False
    rgb = isinstance(video, torch.Tensor) and video.dtype == torch.uint8 and video.dim() == 4 and video.shape[-1] == 3
    return rgb and isinstance(caption, str)


def _described(clip: Any) -> str:
    if isinstance(clip, dict):
        return ", ".join(f"{name}: {_described(value)}" for name, value in clip.items())
    return f"{clip.dtype} {list(clip.shape)}" if isinstance(clip, torch.Tensor) else f"{clip!r:.60}"
