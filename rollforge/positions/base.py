"""What positions are: placements of frames at time indices, and how they rotate queries and keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rollforge.borders import WrongAnswer, shown
from rollforge.devices import sent
from rollforge.ranges import Checked
from rollforge.spec import ModelSpec, ReadPlan, Step
from rollforge.state import Stateful

Placement = Any
"""What ``turn`` needs for some frames: a tensor, or tensors in a tuple."""


class Positions(Checked, Stateful, ABC):
    """Rotates queries and keys by the time indices of their frames. Every rollout has a copy of its own.

    A backbone names those that it was trained with (``Backbone.positions``); a config may replace them.
    """

    movable: ClassVar[bool] = True
    """Whether a frame can be read at a time index other than its own. Where it cannot, plans that do are refused."""

    def key(self, spec: ModelSpec, step: Step, plan: ReadPlan) -> Hashable:
        """What placements depend on besides the time indices: cached keys are rotated again exactly when it changes.

        ``None`` states that they depend on nothing else; raw keys are then kept only of frames that may move.
        Default: the step and the plan, so that every pass rotates all keys again.
        """
        return step, plan.entries(), plan.query, plan.causal

    def check_spec(self, spec: ModelSpec) -> None:
        """Raises ``UserError`` for a model whose keys they cannot rotate. Called before anything is allocated."""

    @abstractmethod
    def place(
        self, spec: ModelSpec, times: Sequence[float], step: Step | None = None, plan: ReadPlan | None = None
    ) -> Placement:
        """The placement of all tokens of the frames at ``times``, on the CPU.

        A list has one placement for each layer; anything else is used in all layers. Training passes have no step and
        no plan.
        """

    @abstractmethod
    def turn(self, x: Tensor, placement: Placement) -> Tensor:
        """Queries or keys ``[B, tokens, heads, head_dim]`` at their placement, in the same shape and dtype."""

    def rows(self, placement: Placement, rows: Tensor) -> Placement:
        """The placement of single tokens, ``rows [B, n]`` of those that ``placement`` is of.

        Default: these rows of each tensor in it, whose first dimension counts tokens.
        """
        return placement[rows] if isinstance(placement, Tensor) else tuple(self.rows(each, rows) for each in placement)

    def heads(self, placement: Placement, part: int, parts: int) -> Placement:
        """The placement of one of ``parts`` equal shares of the heads. Default: the same, as all heads turn alike."""
        return placement


class NoPositions(Positions):
    """Leaves queries and keys unchanged: time indices have no effect on ``attend``."""

    def key(self, spec: ModelSpec, step: Step, plan: ReadPlan) -> Hashable:
        return None

    def place(
        self, spec: ModelSpec, times: Sequence[float], step: Step | None = None, plan: ReadPlan | None = None
    ) -> Placement:
        return ()

    def turn(self, x: Tensor, placement: Placement) -> Tensor:
        return x


class FixedPositions(NoPositions):
    """Leaves queries and keys unchanged, since the network adds positions of its own to its tokens.

    They stay in its cached keys, so that no frame can be read at another time index.
    """

    movable = False


def placed(
    positions: Positions, spec: ModelSpec, times: Sequence[float], device: torch.device,
    step: Step | None = None, plan: ReadPlan | None = None,
) -> list[Placement]:  # fmt: skip
    """A placement on ``device`` for each layer."""
    found = positions.place(spec, times, step, plan)
    expected = f"tensors in tuples, or a list of these for {spec.layers} layers"
    for each in found if isinstance(found, list) and len(found) == spec.layers else [found]:
        if not _is_placement(each):
            raise WrongAnswer("positions", positions, found, "as a placement", expected)
    if isinstance(found, list):
        return [_sent(each, device) for each in found]
    return [_sent(found, device)] * spec.layers


def turned(positions: Positions, x: Tensor, placement: Placement) -> Tensor:
    """Queries or keys at their placement. Raises ``WrongAnswer`` for what is not like them."""
    made = positions.turn(x, placement)
    if not isinstance(made, Tensor) or made.shape != x.shape or made.dtype != x.dtype or made.device != x.device:
        raise WrongAnswer("positions", positions, made, "from turn", f"{shown(x)} on {x.device}")
    return made


def refusal(positions: Positions, plan: ReadPlan, step: Step) -> str | None:
    """Why a plan cannot be followed with these positions: they cannot move frames and the plan does."""
    own = ((frame, plan.query + n) for n, frame in enumerate(step.frames))
    pairs = () if positions.movable else (*plan.entries(), *own)
    moved = next(((frame, time) for frame, time in pairs if frame != time and frame >= 0), None)
    return moved and (
        f"The plan of block {step.index} reads frame {moved[0]} at time index {moved[1]}, but the positions "
        f"{type(positions).__name__} cannot move a frame; take a policy that reads every frame at its own index, or "
        "other positions."
    )


def _is_placement(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple) and all(map(_is_placement, value)))


def _sent(placement: Placement, device: torch.device) -> Placement:
    if isinstance(placement, Tensor):
        return sent(placement, device)
    return tuple(_sent(each, device) for each in placement)
