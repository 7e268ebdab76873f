"""Videos in the making: rolled, decoded and checked block by block, and able to go on after a cut."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from rollforge.borders import WrongAnswer, check_tensor
from rollforge.data.requests import Request
from rollforge.errors import UserError, attribute_errors
from rollforge.pipeline.components import Components
from rollforge.policies.base import CachePolicy
from rollforge.rollout import Block, RolloutIterator
from rollforge.spec import ModelSpec
from rollforge.state import State, copied

log = logging.getLogger(__name__)

SLACK = 0.25  # by which a codec may leave 0..1 before its range is taken for another one


class VideoRollout(Iterator[Tensor]):
    """Pixel frames uint8 ``[B, T, H, W, 3]`` of requests that are rolled together, on the CPU, block by block.

    Args:
        components: what they are made with.
        requests: of one length and seed, with prompts that start at the same times.
        policy: in place of the components' own.
        state: continue from there: what ``state_dict`` returned after a block of the same rollout.
        finished: with a state told without its keys and values, the latents of all blocks until then, in order.
    """

    def __init__(
        self,
        components: Components,
        requests: Sequence[Request],
        policy: CachePolicy | None = None,
        state: State | None = None,
        finished: Iterable[Tensor] = (),
    ) -> None:
        _check(requests)
        self.components, self.codec = components, components.codec
        with components.computing():
            self.blocks = self._begin(requests, policy, state, finished)
        with attribute_errors("codec", self.codec, "beginning a video"):
            self.decoder = self.codec.stream()
            self.left = self.codec.pixel_frames(requests[0].frames)
        self.latents = torch.zeros(0)  # of the last block
        if state:
            with attribute_errors("codec", self.codec, "going on with a video"):
                self.decoder.load_state_dict(state["decoder"])
            self.left = state["left"]

    def _begin(
        self, requests: Sequence[Request], policy: CachePolicy | None, state: State | None, finished: Iterable[Tensor]
    ) -> RolloutIterator:
        """Encodes prompts and openings, and starts the rollout loop."""
        components, first = self.components, requests[0]
        starts = sorted(first.prompts)
        prompts = {start: components.condition([request.prompt_at(start) for request in requests]) for start in starts}
        self.condition_ids = [condition.id for condition in prompts.values()]
        given = components.given(requests)
        if given is not None and (doubt := doubt_of(given.shape[1], components.backbone.spec)):
            _warn(doubt)
        guided = "negative" in components.sampler.guidance_branches
        return components.rollout(policy)(
            prompts,
            first.frames,
            first.seed,
            samples=[request.sample for request in requests],
            negative=components.condition([components.negative_prompt] * len(requests)) if guided else None,
            given=given,
            state=state["blocks"] if state else None,
            finished=finished,
        )

    @property
    def made(self) -> int:
        """Blocks made so far, those before a cut included."""
        return self.blocks.index

    @torch.no_grad()
    def __next__(self) -> Tensor:
        with self.components.computing():
            block = next(self.blocks)
            with attribute_errors("codec", self.codec, f"decoding block {block.index}"):
                frames = self.decoder(block.latents)
            video = to_bytes(self._checked(frames, block))[:, : self.left]
        self.left -= video.shape[1]
        self.latents = block.latents
        return video

    def _checked(self, frames: Tensor, block: Block) -> Tensor:
        """Decoded frames, if they are as many, as large and as bright as they must be. Raises ``UserError``."""
        count, stop = self.codec.pixel_frames, block.start + block.latents.shape[1]
        due = count(stop) - (count(block.start) if block.start else 0)
        width, height = self.components.size
        when = f"for the {block.latents.shape[1]} latent frames of block {block.index}"
        check_tensor("codec", self.codec, frames, when, (len(block.latents), due, 3, height, width))
        low, high = (value.item() for value in frames.aminmax()) if frames.numel() else (0.0, 0.0)
        if low < -SLACK or high > 1 + SLACK:
            found = f"pixel values from {low:.3g} to {high:.3g}"
            raise WrongAnswer("codec", self.codec, found, when, "values from 0 to 1")
        return frames

    def state_dict(self, kv: bool = True) -> State:
        """What the blocks to come depend on; without ``kv``, less what committing the finished latents brings back."""
        with attribute_errors("codec", self.codec, "telling its state"):
            decoder = self.decoder.state_dict()
        return {"blocks": self.blocks.state_dict(kv), "decoder": copied(decoder), "left": self.left}


def doubt_of(opening: int, spec: ModelSpec) -> str:
    """Why a video that starts from ``opening`` latent frames may be worse than others; empty where there is no reason.

    Args:
        opening: given latent frames; a picture is one.
        spec: the model's.
    """
    block = spec.block
    if opening % block == 0 or spec.whole(opening) == opening:
        return ""
    return (
        f"The opening has {opening} latent frame{'s' if opening > 1 else ''}, and this model makes blocks of {block}: "
        "a block that starts so was not in its training, and the video may be worse for it. Frame-wise models (blocks "
        "of 1) are made for pictures."
    )


@cache
def _warn(doubt: str) -> None:
    """Says it once."""
    log.warning("%s", doubt)


def _check(requests: Sequence[Request]) -> None:
    """Raises ``UserError`` for requests that would change each other's videos."""
    if not requests:
        raise UserError("There is nothing to roll: give one request or more.")
    for request in requests[1:]:
        if request.schedule != requests[0].schedule:
            raise UserError(
                f"Requests {requests[0].sample} and {request.sample} differ in length, seed or the frames at which "
                f"their prompts start ({requests[0].schedule} and {request.schedule}); roll them one after the other."
            )


def to_bytes(video: Tensor) -> Tensor:
    """Pixel frames ``[B, T, 3, H, W]`` in 0..1 to uint8 ``[B, T, H, W, 3]`` on the CPU."""
    return (video.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu()
