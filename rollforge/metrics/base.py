"""The metric: a streaming measure of one video in constant memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from rollforge.errors import UserError
from rollforge.ranges import Checked
from rollforge.state import Stateful

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Blocks:
    """Where blocks begin in pixel frames: at 0, at ``first``, and every ``period`` frames after that."""

    first: int
    period: int

    @classmethod
    def of(cls, pixel_frames: Callable[[int], int], block: int, first_block: int | None = None) -> Blocks:
        """From a codec's ``pixel_frames`` and the latent frames of a block: (9, 12) for Wan, (3, 3) for Pocket."""
        opening = first_block or block
        first = pixel_frames(opening)
        return cls(first, pixel_frames(opening + block) - first)


class Metric(Checked, Stateful, ABC):
    """Measures a video block by block. One object measures one video after another.

    Between two updates its plain attributes, and those of its attributes that are ``Stateful`` themselves, are its
    state: after ``start`` on a fresh object, ``load_state_dict`` continues the same measurement.
    """

    better: Mapping[str, Better] = {}
    """Which direction of each curve is better, if that is clear: ``higher`` or ``lower``. ``compare`` ranks by it."""

    @property
    def least_seconds(self) -> float:
        """Length of the shortest video that it can measure; a shorter one is refused before anything is written."""
        return 0.0

    reference_frames: ClassVar[int] = 0
    """Frames at the start of a video from which it takes what it compares with; until then its curves may depend on
    how the frames are split into updates."""

    @abstractmethod
    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        """Starts a new video. ``blocks``: where its blocks start, if that is known."""

    @abstractmethod
    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        """Measures pixel frames ``start, start + 1, ...``, uint8 ``[T, H, W, 3]``: named curves, one number a frame.

        A number is NaN where the measure is not defined. Frames may be skipped between two calls, but never repeat.
        """

    def update_latents(self, latents: Tensor, start: int) -> dict[str, Tensor]:
        """Measures latent frames ``start, start + 1, ...``, ``[F, C, H, W]``: named curves, one number for each."""
        return {}

    def finish(self) -> dict[str, float]:
        """Values of the video so far that are not the mean of a curve. The video may continue."""
        return {}

    def truth(self, prompt: str, seed: int, frames: int) -> Tensor | None:
        """Ground-truth video for a prompt, uint8 ``[T, H, W, 3]``, if the metric can render one."""
        return None


def check_length(metrics: Iterable[Metric], seconds: float, video: str) -> None:
    """Raises ``UserError`` for a video that is shorter than the windows of a metric."""
    for metric in metrics:
        if seconds < metric.least_seconds:
            raise UserError(
                f"{video} lasts {seconds:.3g} s, and the metric {type(metric).__name__} needs "
                f"{metric.least_seconds:g} s or more; use a longer video, or leave the metric out."
            )


def directions(metrics: Iterable[Metric]) -> dict[str, Better]:
    """Which way the curves of metrics are better. Raises ``UserError`` for any other value."""
    found: dict[str, Better] = {}
    for metric in metrics:
        for curve, better in metric.better.items():
            if better not in get_args(Better):
                raise UserError(
                    f"The metric {type(metric).__name__} says {better!r:.40} is better of its curve {curve}; expected "
                    "'higher' or 'lower'."
                )
            found[curve] = better
    return found
