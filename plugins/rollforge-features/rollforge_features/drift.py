"""Drift in a feature space, by VBench's rule for consistency of subject and background.

The rule (``vbench/subject_consistency.py``, ``background_consistency.py``): every frame but the first is compared, by
the cosine of its features, with the first frame and with the one before it; negative cosines count as 0; a frame's
consistency is the mean of both. VBench does so with DINO ViT-B/16 for the subject and CLIP ViT-B/32 for the background,
over clips of two seconds in its long variant. Here it runs over whole videos, with whatever weights are given, and only
on every n-th frame if that is asked: the curves are proxies and are not VBench's scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.errors import UserError
from rollforge.metrics.base import Metric
from rollforge.ranges import Count, Positive
from rollforge_features.base import Features
from rollforge_features.extractors import Clip, Dino

__all__ = ["Clip", "Dino", "FeatureDrift", "Features"]  # the extractors, so that configs may name them shortly

NAN = float("nan")
STATE = ("sum", "count", "previous", "next", "due", "clip", "clip_first", "clip_before", "video_first")


class FeatureDrift(Metric):
    """How alike the frames of a video stay in a feature space: to its opening, and each to the one before it.

    Curves, one number for each frame, beginning with the name of the feature space (``dino``, ``clip``); NaN at frames
    that are not measured and where there is nothing to compare with:
        to_first: cosine to the opening, negative ones as 0. A video that drifts falls.
        to_previous: cosine to the measured frame before, the same. A frozen video has 1, one that flickers less.
        consistency_proxy: their mean, VBench's rule for subject (DINO) and background (CLIP).
        in_clip: the same rule within clips, as VBench-Long cuts them; NaN where a clip begins.
        clip_to_clip: the same rule for the first measured frames of the clips: the long-range half of VBench-Long.

    Args:
        extractor: the feature space.
        every: measures every n-th frame, counted from the first of those that come without a gap.
        opening: measured frames that make the opening; of more than one the mean is taken, and they are part of it.
        clip_seconds: length of the clips.
    """

    def __init__(self, extractor: Features, every: Count = 1, opening: Count = 1, clip_seconds: Positive = 2.0) -> None:
        self.extractor, self.every, self.opening, self.clip_seconds = extractor, every, opening, clip_seconds
        self.start("", 1.0)

    def start(self, prompt: str, fps: float, blocks: Any = None, **ignored: Any) -> None:
        self.sum: Tensor | None = None  # of the opening's features
        self.count = 0  # frames in that sum
        self.previous: Tensor | None = None
        self.next = 0  # the frame that goes on without a gap
        self.due = 0  # the next to measure
        self.long, self.clip = max(1, round(self.clip_seconds * fps)), -1  # frames of a clip; the number of the latest
        self.clip_first: Tensor | None = None
        self.clip_before: Tensor | None = None  # the frame before in the clip
        self.video_first: Tensor | None = None  # of the first clip

    def update(self, frames: Tensor, start: int, **ignored: Any) -> dict[str, Tensor]:
        if start != self.next:
            self.previous, self.due = None, start
        self.next = start + len(frames)
        places = list(range(self.due - start, len(frames), self.every))
        self.due += len(places) * self.every
        rows = torch.full((4, len(frames)), NAN)
        for place, vector in zip(places, self._vectors(frames[places]) if places else (), strict=True):
            clip = (start + place) // self.long
            rows[:, place] = torch.tensor([*self._compare(vector), *self._compare_clips(vector, clip)])
        curves = {"to_first": rows[0], "to_previous": rows[1], "consistency_proxy": rows[:2].mean(0)}
        curves |= {"in_clip": rows[2], "clip_to_clip": rows[3]}
        return {f"{self.extractor.name}_{name}": curve for name, curve in curves.items()}

    def state_dict(self) -> dict[str, Any]:
        """What later frames are compared with; the feature space is no part of it."""
        return {name: deepcopy(getattr(self, name)) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        for name in STATE:
            setattr(self, name, deepcopy(state[name]))

    def _vectors(self, frames: Tensor) -> Iterator[Tensor]:
        """Features of unit length, one frame after the other."""
        vectors = functional.normalize(self.extractor.embed(frames).double(), dim=1)
        if not torch.isfinite(vectors).all():
            raise UserError(f"{type(self.extractor).__name__} gives features that are not finite; check its weights.")
        if self.sum is not None and vectors.shape[1] != len(self.sum):
            raise UserError(
                f"{type(self.extractor).__name__} gives features of width {vectors.shape[1]}, and those of the frames "
                f"before are of width {len(self.sum)}; continue with the same feature space, or measure from the start."
            )
        return iter(vectors)

    def _compare(self, vector: Tensor) -> tuple[float, float]:
        """Cosines to the opening and to the frame before."""
        alone = self.sum is None
        if self.count < self.opening:
            self.sum, self.count = vector if self.sum is None else self.sum + vector, self.count + 1
        to_first = NAN if alone else _cosine(self.sum, vector)
        to_previous, self.previous = _cosine(self.previous, vector), vector
        return to_first, to_previous

    def _compare_clips(self, vector: Tensor, clip: int) -> tuple[float, float]:
        """The rule within the clip, and for the first frames of clips where one begins."""
        if clip == self.clip:
            within = (_cosine(self.clip_first, vector) + _cosine(self.clip_before, vector)) / 2
            self.clip_before = vector
            return within, NAN
        between = (_cosine(self.video_first, vector) + _cosine(self.clip_first, vector)) / 2
        self.video_first = vector if self.video_first is None else self.video_first
        self.clip, self.clip_first, self.clip_before = clip, vector, vector
        return NAN, between


def _cosine(one: Tensor | None, other: Tensor) -> float:
    """The cosine, 0 where it is negative, NaN where there is nothing to compare with."""
    return NAN if one is None else max(0.0, functional.cosine_similarity(one, other, dim=0).item())
