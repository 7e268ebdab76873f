"""Metrics of ground-truth videos, where a metric can render them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from torch import Tensor

from rollforge.data.requests import Request
from rollforge.errors import UserError, ran_out
from rollforge.evaluation.horizon import Horizon
from rollforge.evaluation.prompts import Intervals, over_prompts
from rollforge.metrics.base import Blocks, Metric
from rollforge.metrics.summary import summarise
from rollforge.pipeline import Pipeline
from rollforge.report.metric_runner import MetricRunner

log = logging.getLogger(__name__)


def truth(pipeline: Pipeline, metrics: Sequence[Metric], requests: Iterable[Request]) -> Intervals:
    """Values of the second horizon of ground-truth videos, over prompts; of all metrics, if one can render them."""
    ruler = Horizon.of(pipeline)
    blocks = Blocks.of(pipeline.codec.pixel_frames, pipeline.backbone.spec.block, pipeline.backbone.spec.first_block)
    rows = []
    for request in requests:
        video = _true(metrics, request, 2 * ruler.frames.first)
        if video is None:
            continue
        measures = MetricRunner(metrics)
        measures.start(request.prompt, pipeline.fps, blocks)
        measures.update(video[: ruler.frames.first], 0)
        curves = measures.update(video[ruler.frames.first :], ruler.frames.first)
        known = {name: curve.double().numpy() for name, curve in curves.items()}
        rows.append({"prompt": request.prompt, "summary": summarise(known, pipeline.fps, ruler.seconds)})
    return over_prompts(rows)


def _true(metrics: Iterable[Metric], request: Request, frames: int) -> Tensor | None:
    """The video of the first metric that has one. A metric that raises has none: all videos are complete by now."""
    for metric in metrics:
        try:
            video = metric.truth(request.prompt, request.seed + request.sample, frames)
        except Exception as error:
            if isinstance(error, UserError) or ran_out(error):
                raise
            log.warning("The metric %s raised %s in truth().", type(metric).__name__, error)
            continue
        if video is not None:
            return video
    return None
