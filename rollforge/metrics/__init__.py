"""Streaming metrics of decoded video. None of them needs weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.metrics.base import Blocks, Metric
    from rollforge.metrics.colour import ColourHistogram, Exposure
    from rollforge.metrics.fixed_camera import FixedCamera
    from rollforge.metrics.flicker import Flicker, Stagnation
    from rollforge.metrics.flow import DIS, Flow
    from rollforge.metrics.latents import LatentStatistics
    from rollforge.metrics.motion import Motion
    from rollforge.metrics.repetition import Repetition
    from rollforge.metrics.seams import Seams
    from rollforge.metrics.sharpness import Sharpness
    from rollforge.metrics.suite import DriftSuite
    from rollforge.metrics.truth import WorldTruth

__all__ = [
    "DIS",
    "Blocks",
    "ColourHistogram",
    "DriftSuite",
    "Exposure",
    "FixedCamera",
    "Flicker",
    "Flow",
    "LatentStatistics",
    "Metric",
    "Motion",
    "Repetition",
    "Seams",
    "Sharpness",
    "Stagnation",
    "WorldTruth",
]

__getattr__ = lazily(
    __name__,
    {
        "Blocks": "base",
        "ColourHistogram": "colour",
        "DIS": "flow",
        "DriftSuite": "suite",
        "Exposure": "colour",
        "FixedCamera": "fixed_camera",
        "Flicker": "flicker",
        "Flow": "flow",
        "LatentStatistics": "latents",
        "Metric": "base",
        "Motion": "motion",
        "Repetition": "repetition",
        "Seams": "seams",
        "Sharpness": "sharpness",
        "Stagnation": "flicker",
        "WorldTruth": "truth",
    },
)
