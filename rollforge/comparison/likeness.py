"""How videos are like each other, by their thumbnails: whether one stays itself, and whether prompts grow alike.

A thumbnail is 16 x 16 RGB of one second. The likeness of two is their correlation (the cosine after the mean of each
is taken away): 1 for the same picture, 0 for unrelated ones; the distance is 1 minus it. Not a number where a picture
is of one colour. All functions are of arrays alone; the measures are proxies, and their definitions our reading.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rollforge.metrics.thumbnails import Pictures

ENDS = 5  # seconds at both ends
NAN = float("nan")
Curve = NDArray[np.float64]


def centred(pictures: Pictures) -> Curve:
    """Unit vectors ``[..., P]`` of thumbnails ``[..., 16, 16, 3]``, whose products are correlations."""
    flat = pictures.reshape(*pictures.shape[:-3], -1).astype(np.float64)
    flat -= flat.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.divide(flat, length, out=np.full_like(flat, NAN), where=length > 0)


def identity(videos: Sequence[Pictures]) -> list[Curve]:
    """Of videos of one prompt ``[T, 16, 16, 3]``: likeness to the own first second, minus its mean over the others'.

    One curve ``[T]`` for each; above 0 while a video is nearer to its own opening than to that of other seeds.
    """
    if len(videos) < 2:
        return [np.full(len(video), NAN) for video in videos]
    seen = [centred(video) for video in videos]
    openings = np.stack([one[0] for one in seen])
    found = []
    for n, one in enumerate(seen):
        likeness = one @ openings.T  # [T, videos]
        found.append(likeness[:, n] - np.delete(likeness, n, axis=1).mean(axis=1))
    return found


def apart(videos: Pictures) -> Curve:
    """Distance of each of N prompts' videos ``[N, T, 16, 16, 3]`` from the others, mean: ``[N, T]``."""
    seen = centred(videos).transpose(1, 0, 2)  # [T, N, P]
    distance = 1 - seen @ seen.transpose(0, 2, 1)
    distance[:, np.arange(len(videos)), np.arange(len(videos))] = NAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN, of one video
        return np.asarray(np.nanmean(distance, axis=2).T)


def retrieved(videos: Pictures) -> Curve:
    """Whether the likest of all first seconds is the video's own, 1 or 0: ``[N, T]`` of ``[N, T, 16, 16, 3]``."""
    seen = np.nan_to_num(centred(videos))
    likest = (seen @ seen[:, 0].T).argmax(axis=2)
    return np.asarray(likest == np.arange(len(videos))[:, None], np.float64)


def half_life(curve: Curve) -> float:
    """The first second at which a curve ``[T]`` is at most half of what it was at first; NaN where it never is."""
    below = np.flatnonzero(curve <= curve[0] / 2) if len(curve) else np.zeros(0, int)
    return float(below[0]) if len(below) else NAN


def parted(run: Pictures, twin: Pictures, others: Sequence[Pictures]) -> float:
    """The first second at which a twin is farther from a run than half of the distance of other seeds' videos.

    Distances are root mean square differences of thumbnails ``[T, 16, 16, 3]``, that of other seeds their mean. NaN
    where the twin never is, and without other seeds.
    """
    if not others:
        return NAN
    length = min(map(len, (run, twin, *others)))
    usual = np.mean([_difference(run[:length], other[:length]) for other in others], axis=0)
    far = np.flatnonzero(_difference(run[:length], twin[:length]) > usual / 2)
    return float(far[0]) if len(far) else NAN


def at_ends(curve: Curve, seconds: int = ENDS) -> tuple[float, float]:
    """Means of the first and the last seconds of a curve ``[T]``; of one that is shorter, of its halves."""
    few = min(seconds, max(1, len(curve) // 2))
    return _mean(curve[:few]), _mean(curve[-few:])


def _difference(one: Pictures, other: Pictures) -> Curve:
    changed = one.astype(np.float64) - other
    return np.asarray(np.sqrt(np.square(changed).mean(axis=(1, 2, 3))))


def _mean(values: Curve) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else NAN
