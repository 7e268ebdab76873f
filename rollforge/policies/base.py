"""The cache policy: which committed frames a block attends to, and at which time index. Integers only."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from rollforge.ranges import Checked
from rollforge.spec import Capacity, Event, ModelSpec, ReadPlan, Reencode, Seen, Step, Virtual
from rollforge.state import Stateful

log = logging.getLogger(__name__)


class CachePolicy(Checked, Stateful, ABC):
    """A pure function from a step to a table of ``(content frame, time index)`` pairs.

    ``plan`` may be called in any order and any number of times. ``live`` names the frames to keep: all others are
    evicted as soon as a block is committed. What a policy learns from ``on_commit`` and ``on_event`` it keeps in plain
    attributes, which snapshots save.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        if "revisited" in own and "moves" not in own:
            log.warning("%s.revisited is called moves now; the old name works until rollforge 0.3.", cls.__name__)
            cls.moves = cls.revisited  # type: ignore[method-assign] # the same under its new name
        elif "moves" in own:
            cls.revisited = cls.moves  # for callers of the old name

    @abstractmethod
    def plan(self, step: Step) -> ReadPlan:
        """The frames that the block at ``step`` attends to, and the time index of its own first frame."""

    @abstractmethod
    def live(self, start: int, block: int) -> frozenset[int]:
        """Committed frames (all below ``start``) that the block at ``start`` or a later one may read, in any phase."""

    def moves(self, start: int, block: int) -> frozenset[int]:
        """Those of the ``live`` frames that a later plan may read at another time index, or make a virtual frame of.

        Only of these are raw keys kept once a plan has read them. Default: all live frames.
        """
        return self.live(start, block)

    revisited = moves
    """The old name of ``moves``, which works until 0.3."""

    @abstractmethod
    def visible(self, block: int) -> int:
        """An upper bound on the context frames of any plan, so that buffers have one static size.

        Virtual frames count; so does a frame that is read twice. Of a plan for some layers, those of one layer count.
        """

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        """Raises ``UserError`` if the policy does not fit a network or a sampler. Called before anything is allocated.

        Args:
            spec: the network's.
            longest: frames of the sampler's longest pass.
        """
        return

    def capacity(self, block: int) -> Capacity | None:
        """What the policy keeps at most, for the budget. Default: unknown, found by following its plans."""
        return None

    def virtual(self, step: Step) -> Sequence[Virtual]:
        """Virtual frames to make before the first pass of the block at ``step``, once for each block. Default: none.

        They are made after ``on_event`` and before frames are read again, so that such passes may read them. Sources
        are committed frames and earlier virtual ones; ``moves`` must name them, and ``live`` every virtual frame that
        is still needed.
        """
        return ()

    branches: int = 1
    """The most branches of a plan. With more than one, a component of kind ``combine`` must join them."""

    denoising_steps: int = 1
    """The least number of denoising steps, where its plans depend on them. A sampler with fewer is refused."""

    observes: tuple[int, ...] | Literal["all"] = ()
    """Layers whose queries and keys the policy observes."""

    sees: tuple[str, ...] = ()
    """The fields of ``Seen`` that it observes."""

    whole: tuple[str, ...] = ()
    """Fields that it observes for each token. The others are means over the tokens of a frame."""

    reencodes = False
    """Whether it may request a ``Reencode``."""

    reencoded_pixel = 0
    """Which of the pixel frames of a latent frame a ``Reencode`` encodes: 0 is the first, -1 the last."""

    shifts = False
    """Whether it reads frames at time indices that are not their own, in plans that depend on what it has observed.

    Positions that cannot move a frame refuse it before the first block; of other policies the plans are followed.
    """

    @property
    def batches(self) -> bool:
        """Whether a video does not depend on those that are rolled with it.

        Default: not if the policy observes what the network computes; a policy that chooses for each sample by itself
        may override it.
        """
        return not self.sees

    @property
    def recomputes(self) -> bool:
        """Whether committing all latents again restores what it has learned, so that snapshots may leave out keys.

        Default: not if it observes what the network computes, since denoising passes are not run again, or reencodes.
        """
        return not self.sees and not self.reencodes

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        """Called after each pass with what it ``observes`` in each layer, of the first guidance branch.

        Latents and pixels come once for each block, with ``layer`` None. Store tensors in plain attributes, as all
        state.
        """
        return

    def on_commit(self, step: Step) -> Sequence[range | Reencode] | None:
        """Called when the frames of ``step`` are final, before ``live`` decides what the memory evicts.

        May return frames to read again, as ``on_event`` does, and frames to encode again before that.
        """
        return ()

    def on_event(self, event: Event) -> Sequence[range | Reencode]:
        """Called before the block at which an event occurs, such as a ``PromptSwitch``.

        Returns the committed frames to read again (phase RECACHE), one range for each pass, oldest first; all must be
        live. A pass attends to ``plan(step)`` of its own step and itself, under the prompt that is now in force.
        """
        return ()
