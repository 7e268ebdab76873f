"""Curves and values for any logger of Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from rollforge.evaluation.evaluation import Evaluation
from rollforge.evaluation.plots import grid
from rollforge.evaluation.prompts import band, over_prompts
from rollforge.evaluation.video_result import POINTS, VideoResult
from rollforge.metrics.interval import Interval

SUMMARY = ("level", "drift_15", "slope_per_minute")


def log_to(loggers: Iterable[Any], evaluation: Evaluation) -> None:
    """Logs the mean of each curve over prompts to every logger, as ``test/<curve>``, and drift in a few values.

    The step is the pixel frame at which a stretch of the curve begins; there are at most 1000. With more than one
    prompt the bounds of the interval go with every mean, as ``.../low`` and ``.../high``. With a second policy its
    name comes after ``test/``.
    """
    loggers = list(loggers)
    if not loggers:
        return
    groups = evaluation.groups
    for label, videos in groups.items():
        prefix = f"test/{label}/" if len(groups) > 1 else "test/"
        steps, last = _steps(videos, prefix), 0
        for logger in loggers:
            for last, values in sorted(steps.items()):
                logger.log_metrics(values, step=last)
            logger.log_metrics(_summary(videos, prefix), step=last)
    for logger in loggers:
        logger.save()
        logger.finalize("success")


def log_image(loggers: Iterable[Any], name: str, file: Path, image: Image, step: int) -> None:
    """Hands an image to the loggers that take one: TensorBoard's, and those with a ``log_image`` of their own."""
    for logger in loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(name, [str(file)], step=step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):
            logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _steps(videos: Sequence[VideoResult], prefix: str) -> dict[int, dict[str, float]]:
    """The values of each step."""
    fps = max(video.entry["fps"] for video in videos)
    steps: dict[int, dict[str, float]] = {}
    for name in dict.fromkeys(name for video in videos for name in video.thin):
        seconds, values = grid(videos, name, POINTS)
        for at, mean, low, high in zip(seconds, *band(values), strict=True):
            steps.setdefault(round(at * fps), {}).update(_bounded(prefix + name, float(mean), float(low), float(high)))
    return {step: values for step, values in steps.items() if values}


def _summary(videos: Sequence[VideoResult], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, figures in over_prompts([video.to_dict() for video in videos]).items():
        for figure in SUMMARY:
            interval: Interval = figures[figure]
            found |= _bounded(f"{prefix}summary/{name}/{figure}", interval.mean, interval.low, interval.high)
    return found


def _bounded(name: str, mean: float, low: float, high: float) -> dict[str, float]:
    values = {name: mean, f"{name}/low": low, f"{name}/high": high}
    return {key: value for key, value in values.items() if np.isfinite(value)}
