"""What ``test`` makes of curves: values with their intervals, tables, plots, and what Lightning's loggers get."""

from rollforge.evaluation.measure import Measured, measure

__all__ = ["Measured", "measure"]
