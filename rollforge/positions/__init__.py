"""Positions: how queries and keys learn at which time index their frame is read."""

from rollforge.positions.base import NoPositions, Positions
from rollforge.positions.rope import Rope

__all__ = ["NoPositions", "Positions", "Rope"]
