"""A policy that asks the pipeline for pixels: to look at, and to have encoded again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.data.requests import Request
from rollforge.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoRollout
from rollforge.policies import Window
from rollforge.samplers import Euler
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import Phase, ReadPlan, Reencode, Seen, Step


class Anchored(Window):
    """Encodes the oldest frame in view again before each block (Krea Realtime), and counts the light it has seen."""

    reencodes, sees = True, ("pixels",)

    def __init__(self) -> None:
        super().__init__(2)
        self.light: list[list[float]] = []

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        if seen.pixels is not None:
            self.light = [*self.light, seen.pixels.mean((0, 2)).tolist()]

    def plan(self, step: Step) -> ReadPlan:
        return ReadPlan((), step.start) if step.phase is Phase.RECACHE else super().plan(step)

    def on_commit(self, step: Step) -> Any:
        first = min(self.live(step.frames.stop, step.block))
        return [Reencode(first), range(first, first + 3)]


def test_pixels_of_live_frames_are_encoded_again_and_kept_in_snapshots() -> None:
    torch.manual_seed(0)
    pipeline = Pipeline(
        backbone=Pocket(dim=32, layers=1, heads=2, ffn_dim=64, window=6, horizon=6, weights="random"),
        conditioner=PocketText(), codec=PocketCodec(width=16, weights="random"), policy=Anchored(), sampler=Euler(1),
    ).eval()  # fmt: skip
    request, encoded = Request("", 0, 0, 12), list[Tensor]()
    inner = pipeline.encode
    pipeline.encode = lambda video: encoded.append(video.clone()) or inner(video)  # type: ignore[method-assign,func-returns-value]
    run = pipeline.roll_requests([request])
    videos = [next(run).frames for _ in range(2)]
    state = unpack(*pack(run.state_dict()))
    videos += [block.frames for block in run]
    video = torch.cat(videos, dim=1)
    assert [frames.shape[1] for frames in encoded] == [1, 1, 1]
    for frames, number in zip(encoded, (0, 0, 3), strict=True):
        assert torch.equal(frames[:, 0], video[:, number])
    assert len(run.blocks.policy.light) == 4
    assert {*run.pixels.frames} <= {*range(3, 12)}  # no more than the window of the last block, which is not committed
    again = [block.frames for block in VideoRollout(pipeline, [request], state=state)]
    assert all(map(torch.equal, again, videos[2:]))
    pipeline.policy = Window(2)
    assert not torch.equal(torch.cat([block.frames for block in pipeline.roll_requests([request])], dim=1), video)
