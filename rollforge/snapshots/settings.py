"""When a rollout is saved, and how much of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

from rollforge.ranges import Count, Positive, checked


@checked
@dataclass(frozen=True)
class Snapshots:
    """Snapshots of videos in progress, from which ``--resume`` continues.

    Args:
        every_seconds: wall time between two snapshots; unset: no limit.
        every_blocks: blocks between two snapshots; unset: no limit. With both unset only a signal
            (SIGINT, SIGTERM, SIGUSR1) makes one.
        keep: how many of a video are kept.
        kv: ``save`` keeps keys and values; ``recompute`` keeps the latents of all blocks instead, which is smaller, and
            commits them again to resume, which takes longer. ``auto``: ``recompute`` for snapshots above 1 GB where
            that restores the policy and the sampler, else ``save``.
        latents: keep the latents of finished videos, for ``rollforge decode``.
    """

    config_section: ClassVar[str] = "snapshots"

    every_seconds: Positive | None = 120.0
    every_blocks: Count | None = None
    keep: Count = 2
    kv: Literal["auto", "save", "recompute"] = "auto"
    latents: bool = False


class Clock:
    """When the next snapshot is due."""

    def __init__(self, settings: Snapshots, blocks: int) -> None:
        self.settings = settings
        self.reset(blocks)

    def reset(self, blocks: int) -> None:
        """A snapshot has been made, or tried, after that many blocks."""
        self.blocks, self.time = blocks, time.monotonic()

    def due(self, blocks: int) -> bool:
        """Whether it is time, after that many blocks."""
        seconds, count = self.settings.every_seconds, self.settings.every_blocks
        late = seconds is not None and time.monotonic() - self.time >= seconds
        return late or (count is not None and blocks - self.blocks >= count)
