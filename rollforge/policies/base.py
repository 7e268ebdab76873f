"""The cache policy: which committed frames a block sees, and at which time index. Integers only."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rollforge.spec import ReadPlan, Step


class CachePolicy(ABC):
    """A pure function from a step to a table of ``(content frame, time index)`` pairs.

    ``plan`` may be called in any order and any number of times. ``live`` tells the memory what to keep: everything
    else is forgotten as soon as a block is committed.
    """

    @abstractmethod
    def plan(self, step: Step) -> ReadPlan:
        """The frames that the block at ``step`` sees, and the time index of its own first frame."""

    @abstractmethod
    def live(self, start: int, block: int) -> frozenset[int]:
        """Committed frames (all below ``start``) that the block at ``start`` or a later one may read, in any phase."""

    @abstractmethod
    def visible(self, block: int) -> int:
        """An upper bound on the context frames of any plan, so that buffers have one static size."""

    def on_commit(self, step: Step) -> None:  # noqa: B027 - most policies keep no state
        """Called when the frames of ``step`` are final, before ``live`` decides what the memory forgets."""
