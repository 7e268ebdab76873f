"""The progress bar of a rollout."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from rollforge.errors import printable

FORM = "{desc} {bar} {n:.1f} of {total:.1f} s of video{postfix} · {remaining} left"


class Progress:
    """A bar: seconds generated, frames per second, time left. A context manager.

    Args:
        total: pixel frames in all.
        fps: pixel frames per second.
        label: text before the bar.
        rank: of several processes only rank 0 draws one; theirs would overwrite each other.
        done: frames that were there before.
    """

    def __init__(self, total: int, fps: float, label: str, rank: int = 0, done: int = 0) -> None:
        self.fps, self.done, self.made, self.started = fps, done, 0, time.perf_counter()
        self.bar = tqdm(
            desc=f"{printable(label):14}", total=total / fps, bar_format=FORM, leave=True, disable=rank > 0,
            initial=done / fps,
        )  # fmt: skip

    def add(self, frames: int) -> None:
        """Adds generated frames."""
        self.made += frames
        self.bar.set_postfix_str(f"{self.made / (time.perf_counter() - self.started):.0f} frames/s", refresh=False)
        self.bar.update((self.done + self.made) / self.fps - self.bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.close()
