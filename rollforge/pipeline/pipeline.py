"""The pipeline: prompts in, finished blocks with their pixel frames out."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.data.requests import Request
from rollforge.pipeline.components import Components
from rollforge.pipeline.video_rollout import VideoRollout
from rollforge.policies.base import CachePolicy


class Pipeline(Components):
    """Makes videos from prompts. Arguments as in ``Components``."""

    def roll_requests(self, requests: Sequence[Request], policy: CachePolicy | None = None) -> VideoRollout:
        """Rolls requests together; yields their pixel frames uint8 ``[B, T, H, W, 3]``, on the CPU, block by block.

        Raises ``UserError`` for requests that would change each other: other lengths, seeds or times of prompts.
        """
        return VideoRollout(self, requests, policy)
