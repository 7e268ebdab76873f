"""When a rollout is saved, and how much of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

from rollforge.errors import UserError


@dataclass(frozen=True)
class Snapshots:
    """Snapshots of videos in the making, from which ``--resume`` goes on.

    Args:
        every_seconds: wall time between two snapshots; unset, time does not matter.
        every_blocks: blocks between two snapshots; unset, their number does not matter. With both unset only a signal
            (SIGINT, SIGTERM, SIGUSR1) makes one.
        keep: how many of a video are kept.
        kv: ``save`` keeps keys and values; ``replay`` keeps the latents of all blocks instead, which is smaller, and
            commits them once more to go on, which takes longer.
        latents: keep the latents of finished videos, for ``rollforge decode``.
    """

    every_seconds: float | None = 120.0
    every_blocks: int | None = None
    keep: int = 2
    kv: Literal["save", "replay"] = "save"
    latents: bool = False

    def __post_init__(self) -> None:
        if self.every_seconds is not None and not (self.every_seconds > 0 and math.isfinite(self.every_seconds)):
            raise UserError(f"snapshots.every_seconds must be above 0, not {self.every_seconds}.")
        for name, value in (("every_blocks", self.every_blocks), ("keep", self.keep)):
            if value is not None and value < 1:
                raise UserError(f"snapshots.{name} must be 1 or more, not {value}.")


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
