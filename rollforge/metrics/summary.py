"""Drift in a few numbers: what papers report of a curve, always with its level.

A curve is ``[T]``, one number a frame; NaN where the measure is not defined. NaN is left out of every mean. What is not
defined (five seconds at both ends of a video of eight) is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
NAN = float("nan")
CLIP = 2.0  # seconds of the clips of VBench-Long
MOST_POINTS = 600  # between which slopes are taken
Worst = Literal["highest", "lowest"]
WORST: Mapping[str, Worst] = {
    "presence": "lowest",
    "count_error": "highest",
    "colour_error": "highest",
    "background_error": "highest",
    "tint": "highest",
    "skyline": "highest",
    "landscape": "highest",
    "jump": "highest",
    "repetition": "highest",
    "recurrence": "highest",
    "still_seconds": "highest",
    "histogram_distance": "highest",
    "histogram_shift": "highest",
    "seam": "highest",
}
"""Where it is clear which end of a curve is bad; of all other curves the clip farthest from the first is the worst."""


def worst_of(better: Mapping[str, str]) -> dict[str, Worst]:
    """Which end of each curve is bad: of the built-in ones, and of those in ``better``."""
    return {**WORST, **{curve: "lowest" if good == "higher" else "highest" for curve, good in better.items()}}


def mean(curve: Curve) -> float:
    """Mean of what is a number, NaN where nothing is."""
    known = curve[~np.isnan(curve)]
    return float(known.mean()) if len(known) else NAN


def ends(curve: Curve, share: float = 0.15) -> tuple[float, float]:
    """Means of the first and of the last ``share`` of the frames (FramePack, Helios: 15 %), at least one frame each."""
    count = max(1, round(share * len(curve)))
    return mean(curve[:count]), mean(curve[-count:])


def seconds_at_ends(curve: Curve, fps: float, seconds: float = 5.0) -> tuple[float, float]:
    """Means of the first and last ``seconds`` (Rolling Forcing, Deep Forcing: 5); NaN where they would overlap."""
    count = round(seconds * fps)
    return (mean(curve[:count]), mean(curve[-count:])) if 0 < 2 * count <= len(curve) else (NAN, NAN)


def drift_error(curve: Curve, chunks: int = 10) -> float:
    """VDE: ``sum over i = 2..N of (N - i + 1) |m[i] - m[1]| / |m[1]|`` of the means of ``N`` equal chunks.

    Weights fall with time, so that early drift counts most. NaN where the first chunk's mean is 0, and where the curve
    is shorter than ``chunks`` or has a chunk without a number.
    """
    if len(curve) < chunks:
        return NAN
    means = np.array([mean(part) for part in np.array_split(curve, chunks)])
    weights = np.arange(chunks - 1, 0, -1)
    return float((weights * abs(means[1:] - means[0])).sum() / abs(means[0])) if means[0] else NAN


def slope_per_minute(curve: Curve, fps: float) -> float:
    """Theil-Sen slope: median of the slopes between all pairs of frames, per minute.

    A curve of more than 600 frames is first averaged over equal stretches, 600 in all.
    """
    minutes = np.arange(len(curve)) / (60 * fps)
    if len(curve) > MOST_POINTS:
        parts = np.array_split(np.arange(len(curve)), MOST_POINTS)
        known = ~np.isnan(curve)
        minutes = np.array([mean(minutes[part][known[part]]) for part in parts])
        curve = np.array([mean(curve[part]) for part in parts])
    minutes, curve = minutes[~np.isnan(curve)], curve[~np.isnan(curve)]
    first, second = np.triu_indices(len(curve), k=1)
    return float(np.median((curve[second] - curve[first]) / (minutes[second] - minutes[first]))) if len(first) else NAN


def clips(curve: Curve, fps: float, seconds: float) -> Curve:
    """Means of the clips of ``seconds`` that follow each other, the curve over clips; the last one ends with the video.

    So the last clip may share frames with the one before it; a shorter video is one clip.
    """
    return np.array([mean(clip) for clip in _cut(curve, fps, seconds)])


def within_and_between(curve: Curve, fps: float, seconds: float = CLIP) -> tuple[float, float]:
    """How much a curve changes in clips of ``seconds``, and from clip to clip.

    As VBench-Long takes consistency apart, with differences in place of cosines: of values ``x[1..n]``, the mean over
    ``t = 2..n`` of ``(|x[t] - x[1]| + |x[t] - x[t-1]|) / 2``; of the frames of each clip, mean over clips, and of the
    clips' means. (VBench-Long takes each clip's first frame.) The second is NaN where there is but one clip.
    """
    parts = _cut(curve, fps, seconds)
    return mean(np.array([_unrest(part) for part in parts])), _unrest(np.array([mean(part) for part in parts]))


def _unrest(values: Curve) -> float:
    known = values[~np.isnan(values)]
    return float((abs(known[1:] - known[0]) + abs(np.diff(known))).mean() / 2) if len(known) > 1 else NAN


def _cut(curve: Curve, fps: float, seconds: float) -> list[Curve]:
    """Clips of ``seconds``; the last one ends with the curve."""
    long = max(1, round(seconds * fps))
    starts = [*range(0, len(curve) - long, long), max(0, len(curve) - long)]
    return [curve[start : start + long] for start in starts]


def worst_clip(means: Curve, worst: Worst | None = None) -> int | None:
    """Index of the worst of the clips' means; without a direction, the farthest from the first that is a number."""
    known = np.flatnonzero(~np.isnan(means))
    if not len(known):
        return None
    badness = {"highest": means, "lowest": -means}[worst] if worst else abs(means - means[known[0]])
    return int(known[badness[known].argmax()])


def summarise(
    curves: Mapping[str, Curve], fps: float, horizon_seconds: float, worst: Mapping[str, Worst] = WORST
) -> dict[str, dict[str, float]]:
    """The values of each curve of one video.

    Args:
        curves: by name, ``[T]`` each.
        fps: numbers per second.
        horizon_seconds: length of a clip, the trained horizon.
        worst: which end of a curve is bad, where that is clear.

    Returns, for each curve:
        level: mean over the video.
        first_15, last_15, drift_15, ratio_15: first and last 15 %, last less first, last over first.
        first_5s, last_5s, drift_5s: the same of five seconds.
        in_clip, clip_to_clip: ``within_and_between``.
        vde: ``drift_error``.
        slope_per_minute: Theil-Sen.
        largest_deviation: of a clip's mean from the first clip's, without sign.
        first_clip, worst_clip, worst_clip_at: means of the first and the worst clip, and where it starts, in seconds.

    The papers' |M(start) - M(end)| is the drift without its sign.
    """
    return {
        name: _figures(np.asarray(curve, float), fps, horizon_seconds, worst.get(name))
        for name, curve in curves.items()
    }


def _figures(curve: Curve, fps: float, horizon: float, direction: Worst | None) -> dict[str, float]:
    first, last = ends(curve)
    first_5s, last_5s = seconds_at_ends(curve, fps)
    means = clips(curve, fps, horizon)
    worst, changed = worst_clip(means, direction), worst_clip(means)
    long = max(1, round(horizon * fps))
    within, between = within_and_between(curve, fps)
    return {
        "level": mean(curve),
        "first_15": first,
        "last_15": last,
        "drift_15": last - first,
        "ratio_15": last / first if first else NAN,
        "first_5s": first_5s,
        "last_5s": last_5s,
        "drift_5s": last_5s - first_5s,
        "in_clip": within,
        "clip_to_clip": between,
        "vde": drift_error(curve),
        "slope_per_minute": slope_per_minute(curve, fps),
        "largest_deviation": NAN if changed is None else float(abs(means[changed] - means[~np.isnan(means)][0])),
        "first_clip": float(means[0]),
        "worst_clip": NAN if worst is None else float(means[worst]),
        "worst_clip_at": NAN if worst is None else min(worst * long, max(0, len(curve) - long)) / fps,
    }
