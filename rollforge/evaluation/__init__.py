"""What ``test`` makes of curves: values with their intervals, tables, plots, and what Lightning's loggers get."""

from rollforge.evaluation.measure import Measured, measure
from rollforge.evaluation.sheet import contact_sheet

__all__ = ["Measured", "contact_sheet", "measure"]
