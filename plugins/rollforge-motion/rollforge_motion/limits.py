"""Ranges of arguments that several parts of the package have."""

from __future__ import annotations

from typing import Annotated

from rollforge.ranges import Range

Iterations = Annotated[int, Range(1, 1000)]  # each keeps a flow
Pairs = Annotated[int, Range(2, 20_000)]  # an interval needs two; all are held in memory
