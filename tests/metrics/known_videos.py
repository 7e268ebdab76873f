"""Videos whose answer is known, uint8 ``[T, H, W, 3]``, and a way to measure them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import lab2rgb

from rollforge.metrics.base import Blocks, Metric

Video = NDArray[np.uint8]


def measured(
    metric: Metric, video: Video, fps: float = 8.0, blocks: Blocks | None = None, block: int = 7
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Curves and figures, measured block by block."""
    metric.start("a video", fps, blocks)
    parts = [
        metric.update(torch.from_numpy(video[start : start + block]), start) for start in range(0, len(video), block)
    ]
    curves = {name: torch.cat([part[name] for part in parts]).double().numpy() for name in parts[0]}
    return curves, metric.finish()


def to_bytes(video: NDArray[np.floating]) -> Video:
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def texture(seed: int = 0, size: int = 64, sigma: float = 2.0) -> NDArray[np.float64]:
    """A smooth coloured pattern ``[H, W, 3]`` about 128 that goes on at the other side when it is rolled."""
    noise = np.random.default_rng(seed).normal(size=(size, size, 3))
    smooth = gaussian_filter(noise, (sigma, sigma, 0), mode="wrap")
    return 128 + 35 * smooth / smooth.std()


def noisy(video: NDArray[np.floating], sigma: float, seed: int = 1) -> Video:
    return to_bytes(video + np.random.default_rng(seed).normal(0, sigma, video.shape))


def frozen(frames: int, size: int = 32) -> Video:
    return to_bytes(np.repeat(texture(size=size)[None], frames, axis=0))


def moving(frames: int, pixels: int, size: int = 64, sigma: float = 2.0) -> Video:
    """The pattern goes right by so many pixels a frame."""
    return to_bytes(np.stack([np.roll(texture(size=size, sigma=sigma), t * pixels, axis=1) for t in range(frames)]))


def loop(frames: int, period: int, size: int = 64) -> NDArray[np.float64]:
    """Goes round in a circle between patterns; no two frames of a round are alike."""
    angle = 2 * np.pi * np.arange(frames)[:, None, None, None] / period
    one, two = (texture(seed, size, 6.0) - 128 for seed in (3, 4))
    return 128 + one * np.cos(angle) + two * np.sin(angle)


def wandering(frames: int, seed: int = 0) -> NDArray[np.float64]:
    """Never the same twice: every frame is a new pattern."""
    return np.stack([texture(100 * seed + t, 32, 3.0) for t in range(frames)])


def lightness_drift(frames: int, fps: float, per_minute: float) -> Video:
    """L of a textured picture rises by so much a minute, from 40; a and b stay."""
    lab = np.stack([40 + (texture() - 128)[..., 0] / 12, np.full((64, 64), 8.0), np.full((64, 64), -12.0)], axis=-1)
    rise = np.array([per_minute, 0, 0]) / (60 * fps)
    return noisy(np.stack([lab2rgb(lab + t * rise) for t in range(frames)]) * 255, 1.0)


def blur(sigma: float, size: int = 128) -> Video:
    """One frame of black and white noise, blurred: ``[1, H, W, 3]``."""
    noise = np.random.default_rng(0).choice([0.0, 255.0], size=(size, size))
    return to_bytes(np.repeat(gaussian_filter(noise, sigma, mode="wrap")[None, ..., None], 3, axis=3))


def stepping(frames: int, blocks: Blocks, inside: int, across: int) -> Video:
    """Brightness goes to and fro by ``inside`` levels a frame, and by ``across`` at the first frame of a block."""
    level, levels, sign = 128, [128], 1
    for t in range(1, frames):
        begins = t >= blocks.first and (t - blocks.first) % blocks.period == 0
        level += sign * (across if begins else inside)
        sign = -sign
        levels.append(level)
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (frames, 32, 32, 3)).copy()


def collapse(frames: int, at: int, sink: int = 9, back: int = 10) -> NDArray[np.float64]:
    """Leaves its first frames, stays away, and shows them again from ``at`` on for ``back`` frames."""
    video = wandering(frames, seed=5)
    video[:sink] = texture(1, 32, 3.0)
    video[at : at + back] = texture(1, 32, 3.0)
    return video


def an_hour(frames: int, high: int, wide: int, block: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Blocks of a textured picture that moves and slowly brightens, made as they are asked for."""
    picture = np.tile(texture(size=64), (-(-high // 64), -(-wide // 64), 1))[:high, :wide]
    picture = to_bytes(picture)
    for start in range(0, frames, block):
        shown = [np.roll(picture, 2 * t, axis=1) for t in range(start, min(start + block, frames))]
        yield torch.from_numpy(np.stack(shown) + np.uint8(30 * start // frames)), start
