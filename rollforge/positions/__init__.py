"""Positions: how queries and keys are rotated to the time index at which their frame is read."""

from rollforge.positions.base import FixedPositions, NoPositions, Positions
from rollforge.positions.rope import Rope

__all__ = ["FixedPositions", "NoPositions", "Positions", "Rope"]
