"""The contract of rollout memories, which keep what earlier passes wrote."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory.base import LevelFeatures, Memory, TextKeys
from rollforge.memory.combine import Combine
from rollforge.memory.kernels import Attention, Sdpa
from rollforge.memory.kv_codec import KVCodec
from rollforge.memory.observing import Watch
from rollforge.memory.routing import Routing
from rollforge.positions import Positions
from rollforge.spec import ModelSpec, ReadPlan, Step, Virtual
from rollforge.state import State


class CachedMemory(Memory):
    """A memory of a rollout: one for each guidance branch.

    It is made as ``(spec, visible, positions, kv_codec, combine)``. Where a refused block is taken back, the rollout
    sets the last three as attributes again. ``begin`` and ``end`` go around each pass. A ``ValueError`` of ``make`` and
    ``begin`` is reported as a plan of the policy that cannot be followed.
    """

    positions: Positions
    kv_codec: KVCodec
    combine: Combine | None
    observable: ClassVar[bool] = False
    """Whether it fills the ``watch`` that a rollout sets, for policies that observe queries and keys."""
    watch: Watch | None = None
    kernel: Attention = Sdpa()
    """What it attends with; a rollout sets its own."""
    device: torch.device | None = None
    """The device of the network; a rollout sets it. Default: that of the queries in the first pass."""
    routing: Routing | None = None
    """How query tokens choose among frames of their history; training passes use the same. None: no routing."""
    latents: Mapping[int, Tensor] = {}
    """Latents ``[B, 1, C, H, W]`` of committed frames, which the rollout keeps."""
    levels: LevelFeatures = {}
    """What ``level`` returns; a rollout sets it before each pass."""
    unread: bool = False
    """Whether nothing reads what the network will return; a rollout sets it before each pass."""

    def level(self, layer: int) -> tuple[Tensor, ...] | None:
        return self.levels.get(layer)

    @abstractmethod
    def make(self, block: int, virtual: Sequence[Virtual]) -> None:
        """Makes the virtual frames of block number ``block``, all of them from frames that were cached before."""

    def set_text(self, key: str, project: Callable[[], TextKeys]) -> None:
        """Before a pass of a compiled network: makes what ``text`` returns, where ``key`` names another text than
        before. Default: nothing, and ``cross`` runs inside the network."""
        return

    @abstractmethod
    def begin(self, step: Step, plan: ReadPlan) -> None:
        """Prepares one forward pass, which will attend to exactly ``plan``."""

    @abstractmethod
    def end(self, live: frozenset[int], moves: frozenset[int] | None = None) -> None:
        """Closes a pass. What a writing pass computed is stored; frames outside ``live`` are evicted.

        Without a pass in progress it only evicts frames.

        ``moves`` are the frames that a later plan may read at another time index. Default: all.
        """

    @abstractmethod
    def forget(self, frames: set[int]) -> None:
        """Evicts frames as if no pass had written them."""

    @abstractmethod
    def lacks(self, plan: ReadPlan, moves: frozenset[int]) -> set[int]:
        """Frames of a plan that are not cached, and those of ``moves`` that cannot be read at another time index."""

    @abstractmethod
    def state_dict(self) -> State:
        """All that later passes depend on, between two passes."""

    @abstractmethod
    def load_state_dict(self, state: State, device: torch.device) -> None:
        """Restores, in a new memory on ``device``, what ``state_dict`` returned."""

    def frozen(self) -> Memory:
        """A read-only view of the pass in progress: later writes do not change what a network reads through it.

        Gradient checkpointing runs the pass again with it. Raises ``UserError`` where a memory cannot.
        """
        raise UserError(
            f"The memory {type(self).__name__} cannot show a pass again, which gradient checkpointing needs; set "
            "checkpoint to false."
        )

    def history(self, frames: Sequence[int]) -> Tensor:
        if missing := [frame for frame in frames if frame not in self.latents]:
            raise UserError(
                f"The backbone asks for the latents of frame {missing[0]}, which are not kept; the policy's live() "
                "must name it."
            )
        return torch.cat([self.latents[frame] for frame in frames], dim=1)


MakeMemory = Callable[[ModelSpec, int, Positions, KVCodec, Combine | None], CachedMemory]
"""Makes a memory from the backbone's spec, the most context frames of a plan, and its components."""
