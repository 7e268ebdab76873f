"""A video rollout: blocks are generated and decoded one by one; it can resume after an interruption, and be steered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from typing import Self

import torch
from torch import Tensor

from rollforge.backbones.base import DecodeStream
from rollforge.borders import WrongAnswer, check_pixels
from rollforge.data.requests import Request
from rollforge.errors import UserError, attribute_errors
from rollforge.pipeline.components import Components
from rollforge.pipeline.decoding import DecodingThread
from rollforge.pipeline.finishing import FinishedVideo
from rollforge.pipeline.pixels import RecentPixels
from rollforge.policies.base import CachePolicy
from rollforge.rollout import Block, RolloutIterator
from rollforge.spec import ModelSpec
from rollforge.state import State, copied

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoBlock:
    """A finished block of the videos of a batch.

    Args:
        index: its number.
        start: its first latent frame.
        latents: ``[B, F, C, h, w]``, on the device of the network.
        requests: the videos, one for each row.
        count: the pixel frames that it completes.
        decoded: waits until they are decoded, and returns ``frames`` and ``measured``.
    """

    index: int
    start: int
    latents: Tensor
    requests: tuple[Request, ...]
    count: int
    decoded: Callable[[], tuple[Tensor, Tensor]]

    @property
    def frames(self) -> Tensor:
        """The pixel frames, uint8 ``[B, T, H, W, 3]``, on the CPU."""
        return self.decoded()[0]

    @property
    def measured(self) -> Tensor:
        """The same frames as metrics see them: before a stage ``finish``, unless ``measure_finished`` says so."""
        return self.decoded()[1]


class VideoRollout(Iterator[VideoBlock]):
    """Resumable iterator of finished blocks, with their pixel frames, of the requests of a batch.

    Between two blocks it can be steered: ``fork``, ``switch``, ``use`` and ``extend`` restore its own state under
    changed arguments, so that each equals a rollout that resumes with those arguments.

    Args:
        components: those of the pipeline.
        requests: of one length and seed, with prompts that start at the same times.
        policy: in place of the components' own.
        state: a state to resume from, as ``state_dict`` of a rollout of the same requests returned it.
        finished: latents of all earlier blocks, in order. Required if the state was saved with ``kv=False``.
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
        self.components, self.codec, self.requests = components, components.codec, tuple(requests)
        self.policy = policy or components.policy
        first = requests[0]
        self.pixels = RecentPixels(components)
        if state and "pixels" in state:
            self.pixels.load_state_dict(state["pixels"])
        with components.computing():
            self.conditions = {
                start: components.condition([each.prompt_at(start) for each in requests])
                for start in sorted(first.prompts)
            }
            negative = [components.negative_prompt] * len(requests)
            self.negative = components.condition(negative) if components.guided else None
            self.given = components.given(requests)
            if self.given is not None and (doubt := doubt_of(self.given.shape[1], components.backbone.spec)):
                _warn(doubt)
            self.blocks = self._rollout(state["blocks"] if state else None, finished)
        self.rest: tuple[Tensor, ...] = ()  # pixel frames beyond the end of the video, as decoded and as finished
        with attribute_errors("codec", self.codec, "starting a video"):
            self.decoder = self.codec.stream()
        if not isinstance(self.decoder, DecodeStream):
            raise WrongAnswer("codec", self.codec, self.decoder, "from stream()", "a DecodeStream")
        self.left = total = components.pixel_frames(first.frames)
        if state:
            with attribute_errors("codec", self.codec, "resuming a video"):
                self.decoder.load_state_dict(state["decoder"])
            self.left = total - (state.get("total", total) - state["left"])
            rest = state.get("rest", ())
            self.rest = (rest,) if isinstance(rest, Tensor) else tuple(rest)
        self.finisher = FinishedVideo(components.finish, state.get("finish") if state else None)
        self.thread = self._decoding_thread()

    def _decoding_thread(self) -> DecodingThread | None:
        """Where the codec decodes on its own: a thread."""
        return DecodingThread(self.components.device) if getattr(self.codec, "own_stream", False) else None

    @property
    def made(self) -> int:
        """Blocks generated so far, those before an interruption included."""
        return self.blocks.index

    @property
    def condition_ids(self) -> list[str]:
        """The ids of the text features, in the order of their prompts."""
        return [self.conditions[start].id for start in sorted(self.conditions)]

    @torch.no_grad()
    def __next__(self) -> VideoBlock:
        if self.rest and self.left and self.blocks.start >= self.requests[0].frames:
            empty = tuple(each[:, :0] for each in self.rest)
            return self._cut(self.blocks.index - 1, self.blocks.start, torch.empty(0), empty)
        with self.components.computing():
            if (block := next(self.blocks, None)) is None:
                self._wait()
                raise StopIteration
        if self.thread is None:
            return self._cut(block.index, block.start, block.latents, self._decode(block, block.latents))
        shown = self.thread.submit(partial(self._decode, block), block.latents)
        due, policy = self._due(block), self.blocks.policy
        if self.rest or due > self.left or policy.reencodes or "pixels" in policy.sees:
            return self._cut(block.index, block.start, block.latents, shown())
        self.left -= due
        return VideoBlock(block.index, block.start, block.latents, self.requests, due, lambda: self._chosen(shown()))

    def _decode(self, block: Block, latents: Tensor) -> tuple[Tensor, ...]:
        """The pixel frames of a block as they were decoded and, with a stage after the codec, as they were finished."""
        with self.components.computing():
            with attribute_errors("codec", self.codec, f"decoding block {block.index}"):
                frames = self.decoder(latents)
            video = to_bytes(self._checked(frames, block))
            self.pixels.add(self.blocks, block, video)
            finished = self.finisher(frames, f"for the {frames.shape[1]} frames of block {block.index}")
            return (video,) if finished is None else (video, to_bytes(finished))

    def _cut(self, index: int, start: int, latents: Tensor, shown: tuple[Tensor, ...]) -> VideoBlock:
        """A block without the frames beyond the end of the video; ``shown`` as ``_decode`` returns it."""
        if self.rest:
            shown = tuple(torch.cat(pair, dim=1) for pair in zip(self.rest, shown, strict=True))
        kept = tuple(each[:, : self.left] for each in shown)
        self.rest = tuple(each[:, self.left :] for each in shown) if shown[0].shape[1] > self.left else ()
        self.left -= kept[0].shape[1]
        chosen = self._chosen(kept)
        return VideoBlock(index, start, latents, self.requests, kept[0].shape[1], lambda: chosen)

    def _chosen(self, shown: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The frames to display, and those for metrics."""
        return shown[-1], shown[-1] if self.components.measure_finished else shown[0]

    def _due(self, block: Block) -> int:
        """Pixel frames that a block completes."""
        count, stop = self.components.pixel_frames, block.start + block.latents.shape[1]
        return count(stop) - (count(block.start) if block.start else 0)

    def _checked(self, frames: Tensor, block: Block) -> Tensor:
        """Decoded frames, if they are as many, as large and as bright as they must be. Raises ``UserError``."""
        width, height = self.components.size
        when = f"for the {block.latents.shape[1]} latent frames of block {block.index}"
        shape = len(block.latents), self._due(block), 3, height, width
        return check_pixels("codec", self.codec, frames, when, shape, block.latents)

    def state_dict(self, kv: bool = True) -> State:
        """The state that later blocks depend on; without ``kv`` it has no caches, which are rebuilt from latents."""
        self._wait()
        with attribute_errors("codec", self.codec, "in state_dict"):
            decoder, total = self.decoder.state_dict(), self.components.pixel_frames(self.requests[0].frames)
        state = {"blocks": self.blocks.state_dict(kv), "decoder": copied(decoder), "left": self.left, "total": total}
        if self.pixels.frames:
            state["pixels"] = copied(self.pixels.state_dict())
        if finishing := self.finisher.state_dict():
            state["finish"] = finishing
        if self.rest:
            state["rest"] = self.rest[0] if len(self.rest) == 1 else list(self.rest)
        return state if self.thread is None else self.thread.lend(state)

    def _wait(self) -> None:
        """Waits for blocks that are being decoded."""
        if self.thread is not None:
            self.thread.wait()

    def fork(self) -> Self:
        """A copy that continues independently. It shares only the weights with this rollout."""
        self._wait()
        other = copy(self)
        other.thread = self._decoding_thread()
        other.conditions = dict(self.conditions)
        other.pixels = RecentPixels(self.components)
        other.pixels.load_state_dict(self.pixels.state_dict())
        other.blocks = other._rollout(self.blocks.state_dict())
        with attribute_errors("codec", self.codec, "copying its state"):
            other.decoder = self.codec.stream()
            other.decoder.load_state_dict(copied(self.decoder.state_dict()))
        other.finisher = FinishedVideo(self.components.finish, self.finisher.state_dict())
        return other

    def switch(self, prompt: str | Sequence[str], cut: bool = False) -> None:
        """Switches the prompt from the next block on, and notifies the policy.

        Args:
            prompt: for all videos, or one for each.
            cut: whether a new scene starts there; the policy is notified too.

        Raises:
            UserError: for a prompt that the conditioner cannot express, or another number of them than of videos.
        """
        prompts = [prompt] * len(self.requests) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(self.requests):
            raise UserError(f"{len(prompts)} prompts for {len(self.requests)} videos; give one, or one for each.")
        start = self.blocks.start
        requests = [each.switched(start, text, cut) for each, text in zip(self.requests, prompts, strict=True)]
        self.components.check_prompts(requests)
        with self.components.computing():
            condition = self.components.condition(prompts)
        self._restart(requests=tuple(requests), conditions=self.conditions | {start: condition})

    def use(self, policy: CachePolicy) -> None:
        """Switches the cache policy from the next block on.

        Raises ``UserError``, and leaves the rollout as it is, where the policy reads frames that are not kept.
        """
        self._restart(policy=policy)

    def extend(self, seconds: float) -> None:
        """Makes the video longer; a finished video continues. Raises ``UserError`` for no or negative length."""
        frames = round(seconds * self.components.backbone.spec.fps)
        if frames < 1:
            raise UserError(f"A video cannot be extended by {seconds:g} s; give at least one latent frame's time.")
        before = self.components.pixel_frames(self.requests[0].frames)
        self._restart(requests=tuple(each._replace(frames=each.frames + frames) for each in self.requests))
        self.left += self.components.pixel_frames(self.requests[0].frames) - before

    def _restart(self, **changes: object) -> None:
        """Restores the state of the loop under changed attributes; where that fails, all stays as it was."""
        changed = copy(self)
        vars(changed).update(changes)
        changed.blocks = changed._rollout(self.blocks.state_dict())
        changed.blocks.check_frames()
        vars(self).update(vars(changed))

    def _rollout(self, state: State | None, finished: Iterable[Tensor] = ()) -> RolloutIterator:
        """The rollout loop, from the beginning or from a state of it."""
        first, rollout = self.requests[0], self.components.rollout(self.policy)
        rollout.encode = self.pixels.encode
        return rollout(
            self.conditions,
            first.frames,
            first.seed,
            samples=[request.sample for request in self.requests],
            negative=self.negative,
            given=self.given,
            state=state,
            finished=finished,
            cuts=first.cuts,
        )


def doubt_of(opening: int, spec: ModelSpec) -> str:
    """A warning for a video that starts from ``opening`` latent frames; empty where there is no reason for one.

    Args:
        opening: initial latent frames; an image is one.
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
    """Warns once."""
    log.warning("%s", doubt)


def _check(requests: Sequence[Request]) -> None:
    """Raises ``UserError`` for requests that would change each other's videos."""
    if not requests:
        raise UserError("There is nothing to generate: give one request or more.")
    for request in requests[1:]:
        if request.schedule != requests[0].schedule:
            raise UserError(
                f"Requests {requests[0].sample} and {request.sample} differ in length, seed or the frames at which "
                f"their prompts start ({requests[0].schedule} and {request.schedule}); generate them separately."
            )


def to_bytes(video: Tensor) -> Tensor:
    """Pixel frames ``[B, T, 3, H, W]`` in 0..1 to uint8 ``[B, T, H, W, 3]`` on the CPU."""
    return (video.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu()
