"""The pipeline: from prompts to finished blocks with their pixel frames, or to clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rollforge.budget import MemoryCheck
from rollforge.data.requests import Prompt, Request
from rollforge.data.video_requests import batches, make_requests
from rollforge.errors import UserError
from rollforge.pipeline.clip import Clip, Clips
from rollforge.pipeline.components import Components
from rollforge.pipeline.video_rollout import VideoRollout
from rollforge.policies.base import CachePolicy
from rollforge.rollout.abilities import not_batching
from rollforge.state import State


class Pipeline(Components):
    """Generates videos from prompts.

    Arguments as in ``Components``.

        pipeline = rollforge.load("config.yaml", "model.policy=Window")
        clips = pipeline.generate("a red ball rolls over snow at day", seconds=10)
        clips[0].save("ball.mp4")
    """

    def roll(
        self,
        prompts: Sequence[Prompt] | str,
        seconds: float = 10.0,
        *,
        seed: int = 0,
        policy: CachePolicy | None = None,
        opening: str | Path | None = None,
        state: State | None = None,
        finished: Iterable[Tensor] = (),
    ) -> VideoRollout:
        """Starts a rollout of one video for each prompt; iterate over it for finished blocks with their pixel frames.

        Args:
            prompts: one prompt, several, a prompt file or a folder of them, as ``data.prompts``.
            seconds: length of each video, its opening included.
            seed: of the noise; with a prompt's place in the list it decides the video.
            policy: a cache policy in place of the pipeline's own.
            opening: an image or a video that every video starts with.
            state: a state to resume from, as ``VideoRollout.state_dict`` returned it.
            finished: latents of all earlier blocks. Required if the state was saved with ``kv=False``.

        Raises:
            UserError: for arguments that cannot be used, prompts that cannot share a batch, random weights that were
                not requested, and a rollout that does not fit into memory; nothing is generated then.
        """
        requests = self.requests(prompts, seconds, seed=seed, opening=opening)
        return self._start(requests, policy, state, finished)

    def generate(
        self,
        prompts: Sequence[Prompt] | str,
        seconds: float = 10.0,
        *,
        seed: int = 0,
        policy: CachePolicy | None = None,
        opening: str | Path | None = None,
        batch_size: int = 1,
    ) -> Clips:
        """A clip for each prompt, held in memory; for long videos use ``roll``. Arguments as for ``roll``.

        ``batch_size`` is the most videos of a batch; the videos do not depend on it.
        """
        requests = self.requests(prompts, seconds, seed=seed, opening=opening)
        clips: dict[int, Clip] = {}
        alone = not_batching(self.rollout(policy)) is not None
        for together in batches(requests, 1 if alone else batch_size):
            clips |= {clip.request.sample: clip for clip in self._clips(self._start(together, policy))}
        return Clips(clips[request.sample] for request in requests)

    def requests(
        self,
        prompts: Sequence[Prompt] | str,
        seconds: float = 10.0,
        *,
        seed: int = 0,
        opening: str | Path | None = None,
    ) -> list[Request]:
        """One request for each prompt. Raises ``UserError`` for what cannot be used."""
        if not 0 < seconds < float("inf"):
            raise UserError(f"A video of {seconds:g} s cannot be made; give a positive number of seconds.")
        fps, pictures = self.backbone.spec.fps, self.pixel_frames_per_latent
        found = make_requests(prompts, seconds, fps, pictures, seed=seed, opening=opening)
        self.check_prompts(found)
        return found

    def roll_requests(self, requests: Sequence[Request], policy: CachePolicy | None = None) -> VideoRollout:
        """Starts a rollout of requests without checking weights and memory first.

        Raises ``UserError`` for requests that would change each other: other lengths, seeds or times of prompts.
        """
        return VideoRollout(self, requests, policy)

    def _start(
        self,
        requests: Sequence[Request],
        policy: CachePolicy | None,
        state: State | None = None,
        finished: Iterable[Tensor] = (),
    ) -> VideoRollout:
        """Checks all that can be checked before the first block."""
        self.check_weights()
        work = self.memory_input(requests, len(requests), policies={"model.policy": policy or self.policy})
        MemoryCheck.here(work).check()
        return VideoRollout(self, requests, policy, state, finished)

    def _clips(self, rollout: VideoRollout) -> list[Clip]:
        """The complete rollout, one clip for each request."""
        blocks = [(block.frames, block.latents.cpu(), block.measured) for block in rollout]
        frames, latents = (torch.cat([block[n] for block in blocks], dim=1) for n in (0, 1))
        apart = self.finish is not None and not self.measure_finished
        decoded = torch.cat([measured for *_, measured in blocks], dim=1) if apart else [None] * len(frames)
        rows = zip(frames, latents, rollout.requests, decoded, strict=True)
        return [Clip(video, self.fps, own[: request.frames], request, plain) for video, own, request, plain in rows]
