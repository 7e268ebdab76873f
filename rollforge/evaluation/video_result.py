"""One measured video: where it came from, and its curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rollforge.errors import UserError
from rollforge.evaluation.horizon import Horizon, windows
from rollforge.metrics.curves import read_curves
from rollforge.metrics.summary import Curve, mean, summarise, worst_of

SPEED = ("wall_seconds", "first_block_seconds", "steady_fps")
IDENTITY = ("md5", "noise", "commit", "read", "bytes_held")
POINTS = 1000  # of a curve, that are kept to be drawn


@dataclass(frozen=True)
class DownsampledCurve:
    """A curve of at most 1000 points: means over equal stretches, and where they begin, in seconds."""

    seconds: Curve
    values: Curve

    @classmethod
    def of(cls, curve: Curve, fps: float) -> DownsampledCurve:
        """Of a curve of any length."""
        step = -(-len(curve) // POINTS)
        starts = np.arange(0, len(curve), step)
        return cls(starts / fps, np.array([mean(curve[start : start + step]) for start in starts]))


@dataclass
class VideoResult:
    """One video and its values.

    Args:
        entry: as in the manifest: ``file``, ``prompt``, ``fps``; and what else is known.
        label: name of its policy; None if unknown.
        curves: the file of the curves of its pixel frames.
        summary: of each curve, as returned by ``summarise``.
        marks: mean of each curve over the window that ends at each multiple of the horizon.
        thin: the downsampled curves.
    """

    entry: Mapping[str, Any]
    label: str | None
    curves: Path
    summary: dict[str, dict[str, float]] = field(default_factory=dict)
    marks: dict[int, dict[str, float]] = field(default_factory=dict)
    thin: dict[str, DownsampledCurve] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """Its prompt."""
        return str(self.entry["prompt"])

    @property
    def latents(self) -> Path:
        """The file of the curves of its latent frames."""
        stem = self.curves.name.removesuffix(".curves.csv")
        found, old = (self.curves.with_name(f"{stem}.{name}.csv") for name in ("latent_metrics", "latents"))
        return old if old.exists() and not found.exists() else found  # rollforge 0.1 called it .latents

    def read(self, ruler: Horizon, better: Mapping[str, str] | None = None) -> None:
        """Reads the curves and summarises them. Raises ``UserError`` for a file that is damaged.

        ``better``: for curves that are not built in, whether ``higher`` or ``lower`` is better.
        """
        for path, horizon in ((self.curves, ruler.frames), (self.latents, ruler.latents)):
            if horizon is None or not path.exists():
                continue
            curves = _columns(path)
            fps = ruler.fps * horizon.period / ruler.frames.period
            self.summary |= summarise(curves, fps, horizon.first / fps, worst_of(better or {}))
            self.thin |= {name: DownsampledCurve.of(curve, fps) for name, curve in curves.items()}
            total = len(next(iter(curves.values()), ()))
            for x, window in windows(horizon, total).items():
                means = {name: mean(curve[window.start : window.stop]) for name, curve in curves.items()}
                self.marks.setdefault(x, {}).update(means)

    def to_dict(self) -> dict[str, Any]:
        """Its entry in ``metrics.json``."""
        known = {key: self.entry.get(key) for key in ("prompt", "sample", "seed")}
        failed = self.entry.get("failed_metrics")
        return {
            **known,
            "policy": self.label,
            "file": self.entry["file"],
            "fps": self.entry["fps"],
            "curves": self.curves.name if self.curves.exists() else None,
            "latents": self.latents.name if self.latents.exists() else None,
            "summary": self.summary,
            "figures": self.entry.get("measured", {}),
            "marks": {str(x): means for x, means in self.marks.items()},
            "identity": {key: self.entry[key] for key in IDENTITY if key in self.entry},
            "speed": {key: self.entry[key] for key in SPEED if key in self.entry},
            **({"failed_metrics": failed} if failed else {}),
        }


def _columns(path: Path) -> dict[str, Curve]:
    try:
        curves = read_curves(path)
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and its video, and run again.") from error
    return {name: curve for name, curve in curves.items() if name not in ("frame", "seconds")}
