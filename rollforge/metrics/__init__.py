"""Metrics: streaming measures of decoded video."""

from rollforge.metrics.base import Blocks, Metric

__all__ = ["Blocks", "Metric"]
