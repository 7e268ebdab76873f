"""Clips of the procedural world with one object, and what they show: the labels that encoders are judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rollforge.data.world import WORDS, all_scenes, render
from rollforge_persistence.clips import CLIP, STRIDE, span
from rollforge_persistence.encoder import SIZE

LABELS = (*WORDS,)
"""What is read off a feature: colour, shape, ground, time."""


@dataclass(frozen=True)
class Labelled:
    """Clips and what they show.

    Args:
        clips: floats in 0..1, ``[N, T, 3, H, W]``.
        labels: the number of the word of each clip, ``[N]``, for each of ``LABELS``.
    """

    clips: Tensor
    labels: dict[str, Tensor]


def labelled(count: int, seed: int, frames: int = CLIP) -> Labelled:
    """Clips of ``count`` videos with one object; each seed has videos of its own."""
    drawn = np.random.default_rng(seed)
    scenes = [scene for scene in all_scenes() if len(scene.things) == 1]
    chosen = [scenes[drawn.integers(len(scenes))] for _ in range(count)]
    shown = range(0, span(frames, STRIDE), STRIDE)
    seeds = drawn.integers(2**31, size=count).tolist()
    long = span(frames, STRIDE)
    videos = [render(scene, own, long, size=SIZE, shown=shown) for scene, own in zip(chosen, seeds, strict=True)]
    clips = torch.from_numpy(np.stack([video for video, _ in videos])).permute(0, 1, 4, 2, 3).float() / 255
    words = [(*scene.things[0], scene.ground, scene.time) for scene in chosen]
    labels = {name: torch.tensor([WORDS[name].index(each[n]) for each in words]) for n, name in enumerate(LABELS)}
    return Labelled(clips, labels)
