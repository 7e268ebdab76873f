"""Objectives: training losses."""

from rollforge.objectives.base import Clips, Objective

__all__ = ["Clips", "Objective"]
