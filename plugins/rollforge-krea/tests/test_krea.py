"""Krea Realtime against a network that runs context and block together, without a cache, under a mask."""

from __future__ import annotations

import pytest
import torch
from rollforge_krea import KreaRealtime
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition, DecodeStream, VideoCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.data.requests import Request
from rollforge.errors import UserError
from rollforge.memory import Memory, Rope
from rollforge.noise import normal
from rollforge.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoRollout
from rollforge.positions.rope import rotate
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import Phase, Step
from rollforge.state import State
from rollforge.testing import check_plans, check_policy, check_resume
from rollforge.testing.tiny import SHAPE, condition, network

BLOCK = 3


def encoded(frame: int) -> Tensor:
    """The latent that stands for a frame's pixels."""
    return torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(frame))


class Dense(Memory):
    """Context and block in one pass at 0, 1, 2 ...: a softmax over what each frame may see."""

    def __init__(self, model: Backbone, context: int, block: int) -> None:
        self.rotation = Rope().rotation(model.spec, list(range(context + block)), torch.device("cpu"))
        number = [(n - context) // BLOCK for n in range(context)] + [1] * block  # of blocks, the last of them whole
        frame = torch.tensor(number).repeat_interleave(model.spec.tokens)
        self.hidden = frame[:, None] < frame

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        scores = torch.einsum("bqhd,bkhd->bhqk", rotate(q, self.rotation), rotate(k, self.rotation))
        shares = (scores / q.shape[-1] ** 0.5).masked_fill(self.hidden, -torch.inf).softmax(-1)
        return torch.einsum("bhqk,bkhd->bqhd", shares, v)


def dense(
    model: Backbone, texts: dict[int, Condition], frames: int, n: int, reencode: bool, given: Tensor | None
) -> Tensor:
    """Every block from the latents alone: the last n frames are run again with each of its passes."""
    made = torch.zeros(1, 0, *SHAPE) if given is None else given
    shown = made
    while shown.shape[1] < frames:
        start = shown.shape[1]
        text = texts[max(first for first in texts if first <= start)]
        if reencode and start > n:
            made = torch.cat([made[:, : start - n], encoded(start - n), made[:, start - n + 1 :]], 1)
        context = made[:, max(0, start - n) :]
        noise = [torch.stack([normal(3, 0, f, level, SHAPE) for f in range(start, start + BLOCK)]) for level in (0, 1)]
        x = noise[0][None]
        for sigma in (1.0, 0.5):
            levels = torch.cat([torch.zeros(context.shape[1]), torch.full((BLOCK,), 1000 * sigma)])[None]
            memory = Dense(model, context.shape[1], BLOCK)
            clean = x - sigma * model(torch.cat([context, x], 1), levels, text, memory)[:, -BLOCK:]
            x = 0.5 * clean + 0.5 * noise[1]
        made, shown = torch.cat([made, clean], 1), torch.cat([shown, clean], 1)
    return shown


@pytest.mark.parametrize(
    ("n", "reencode", "opening"), [(3, True, 0), (6, True, 0), (6, False, 0), (2, True, 0), (3, True, 4), (7, True, 6)]
)
@torch.no_grad()
def test_a_rollout_over_switches_is_that_of_a_network_without_a_cache(n: int, reencode: bool, opening: int) -> None:
    model, texts = network(layers=2), {0: condition(), 6: condition(name="second"), 13: condition(name="third")}
    given = torch.cat([encoded(100 + frame) for frame in range(opening)], 1) if opening else None
    rollout = Rollout(model, KreaRealtime(n, reencode), FewStep((1000, 500), shift=1.0), encode=encoded)
    rolled = torch.cat([block.latents for block in rollout(texts, 18 + opening, seed=3, given=given)], 1)
    torch.testing.assert_close(rolled, dense(model, texts, 18 + opening, n, reencode, given), rtol=0, atol=2e-5)


def test_a_thousand_blocks_read_the_last_frames_at_the_first_time_indices() -> None:
    def expected(step: Step) -> tuple[list[tuple[int, int]], int]:
        first = max(0, step.start - 6)
        seen = [(frame, frame - first) for frame in range(first, step.start)]
        return (seen, len(seen)) if step.phase is Phase.DENOISE else ([], 0)

    check_plans(KreaRealtime(6), expected)


def test_it_passes_the_kit() -> None:
    check_policy(KreaRealtime(), blocks=50)


def test_it_resumes_with_and_without_keys() -> None:
    check_resume(KreaRealtime(4, reencode=False), switches=(2, 5))
    check_resume(KreaRealtime(), switches=(2, 5), encode=encoded)
    run = Rollout(network(), KreaRealtime(), FewStep(), encode=encoded)(condition(), 18)
    next(run)
    with pytest.raises(UserError, match=r"KreaRealtime .*set snapshots\.kv to 'save'"):
        run.state_dict(kv=False)


class Brightening(VideoCodec):
    """One pixel for each cell; four pixel frames for each latent frame but the first, each brighter than the last."""

    weights = "random"

    def encode(self, video: Tensor) -> Tensor:
        return torch.cat([video, video.flip(2), video[:, :, :2]], 2)  # 8 channels

    def stream(self) -> DecodeStream:
        return BrighteningStream()

    def pixel_frames(self, latent_frames: int) -> int:
        return max(0, 4 * latent_frames - 3)

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return width, height


class BrighteningStream(DecodeStream):
    started = False

    def __call__(self, latents: Tensor) -> Tensor:
        video = latents[:, :, :3].sigmoid().repeat_interleave(4, 1)
        video = video * torch.tensor([0.4, 0.6, 0.8, 1.0]).repeat(latents.shape[1])[:, None, None, None]
        skipped, self.started = 0 if self.started else 3, True
        return video[:, skipped:]

    def state_dict(self) -> State:
        return {"started": self.started}

    def load_state_dict(self, state: State) -> None:
        self.started = state["started"]


def test_the_anchor_is_the_last_pixel_frame_of_the_oldest_latent_frame() -> None:
    torch.manual_seed(0)
    pipeline = Pipeline(
        backbone=Pocket(dim=32, layers=1, heads=2, ffn_dim=64, window=6, horizon=6, weights="random"),
        conditioner=PocketText(), codec=Brightening(), policy=KreaRealtime(), sampler=FewStep((1000,)),
    ).eval()  # fmt: skip
    request, seen, inner = Request("", 0, 0, 15), list[Tensor](), pipeline.encode
    pipeline.encode = lambda video: seen.append(video.clone()) or inner(video)  # type: ignore[method-assign,func-returns-value]
    run = pipeline.roll_requests([request])
    videos = [next(run).frames for _ in range(3)]
    state = unpack(*pack(run.state_dict()))
    videos += [block.frames for block in run]
    anchors, video = [frames[:, 0] for frames in seen], torch.cat(videos, 1)
    assert video.shape[1] == 57
    assert len(anchors) == 3
    assert all(torch.equal(one, video[:, 4 * frame]) for one, frame in zip(anchors, (3, 6, 9), strict=True))
    again = [block.frames for block in VideoRollout(pipeline, [request], state=state)]
    assert all(map(torch.equal, again, videos[3:]))


def test_it_is_refused_where_there_are_no_pixel_frames_and_for_no_context() -> None:
    with pytest.raises(UserError, match="KreaRealtime needs pixel frames, and this rollout has none"):
        Rollout(network(), KreaRealtime(), FewStep())(condition(), 6)
    with pytest.raises(UserError, match=r"KreaRealtime\.context_frames must be a whole number of 1 or more, not 0"):
        KreaRealtime(0)
