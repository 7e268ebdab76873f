"""How several reads of one plan become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from rollforge.memory.base import Now
from rollforge.ranges import Checked, Share
from rollforge.spec import ModelSpec
from rollforge.state import Stateful


class Combine(Checked, Stateful, ABC):
    """Joins the outputs of the branches of a plan (``Segment.branch``). Every rollout has a copy of its own."""

    @abstractmethod
    def __call__(self, outputs: Sequence[Tensor], layer: int, spec: ModelSpec, now: Now) -> Tensor:
        """The attention's result in one layer.

        Args:
            outputs: of each branch that the layer reads, in the order of their numbers, ``[B, F * tokens, heads,
                head_dim]``. The frames of the pass are in the softmax of each.
            layer: the layer.
            spec: the backbone's; its ``grid`` says how the tokens of a frame lie.
            now: the pass in progress.
        """


class BlendBranches(Combine):
    """Moves the first branch towards the mean of the others.

    Args:
        share: how far: 0 is the first branch alone, 1 the mean of the others.
    """

    def __init__(self, share: Share = 0.5) -> None:
        self.share = share

    def __call__(self, outputs: Sequence[Tensor], layer: int, spec: ModelSpec, now: Now) -> Tensor:
        first, *others = outputs
        return first.lerp(sum(others[1:], others[0]) / len(others), self.share)
