"""The cache policy: which committed frames a block sees, and at which time index. Integers only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from rollforge.ranges import Checked
from rollforge.spec import PromptSwitch, ReadPlan, Step
from rollforge.state import Stateful


class CachePolicy(Checked, Stateful, ABC):
    """A pure function from a step to a table of ``(content frame, time index)`` pairs.

    ``plan`` may be called in any order and any number of times. ``live`` tells the memory what to keep: everything
    else is forgotten as soon as a block is committed. What a policy learns from ``on_commit`` and ``on_event`` it keeps
    in plain attributes, which snapshots save.
    """

    @abstractmethod
    def plan(self, step: Step) -> ReadPlan:
        """The frames that the block at ``step`` sees, and the time index of its own first frame."""

    @abstractmethod
    def live(self, start: int, block: int) -> frozenset[int]:
        """Committed frames (all below ``start``) that the block at ``start`` or a later one may read, in any phase."""

    def revisited(self, start: int, block: int) -> frozenset[int]:
        """Those of the ``live`` frames that a later plan may read at another time index or again after a pause.

        Only of these are raw keys kept once a plan has shown them. All live frames, unless a policy knows better.
        """
        return self.live(start, block)

    @abstractmethod
    def visible(self, block: int) -> int:
        """An upper bound on the context frames of any plan, so that buffers have one static size."""

    def on_commit(self, step: Step) -> None:
        """Called when the frames of ``step`` are final, before ``live`` decides what the memory forgets."""

    def on_event(self, event: PromptSwitch) -> Sequence[range]:
        """Called before the first block under a new prompt.

        Answers the committed frames to read again under it (phase RECACHE), one range for each pass, oldest first; all
        must be live. A pass sees ``plan(step)`` of its own step and itself.
        """
        return ()
