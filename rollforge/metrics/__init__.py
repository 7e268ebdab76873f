"""Metrics: streaming measures of decoded video."""

from rollforge.metrics.base import Metric

__all__ = ["Metric"]
