"""The contract of memories, which a backbone calls for attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rollforge.errors import UserError
from rollforge.spec import Phase, ReadPlan

Projection = Callable[[], tuple[Tensor, Tensor]]
TextKeys = Mapping[int, tuple[Tensor, Tensor]]
"""Keys and values of a text by layer, ``[B, L, heads, head_dim]`` each."""
LevelFeatures = Mapping[int, tuple[Tensor, ...]]
"""What a network has computed from a noise level, by layer."""
Recurrent = Callable[[Any], tuple[Tensor, Any]]
"""From the state before a pass (None at the start of a video) to the output and the state after it."""


@dataclass(frozen=True)
class Now:
    """The pass in progress, for backbones that depend on more than latents and timesteps.

    ``frames`` are the frames of the pass and ``times`` their time indices, one for each. Outside a rollout ``phase`` is
    ``DENOISE``, ``level`` is 0, and ``plan`` is None. Of a pass that is ``unread`` only what it writes is used: the
    network may leave out what comes after that, hand over the keys and values of its last layer by ``memory.write``,
    and return anything of the right shape. Of a pass of two blocks the same holds for its first ``unread_frames``: the
    network may leave their queries out of ``attend`` in its last layer.
    """

    frames: Sequence[int] = ()
    times: Sequence[float] = ()
    phase: Phase = Phase.DENOISE
    level: int = 0
    plan: ReadPlan | None = None
    unread: bool = False
    unread_frames: int = 0


class Memory(ABC):
    """Manages time indices, masks, rotation and the cache, so that a backbone does not."""

    @property
    def now(self) -> Now:
        """The pass in progress; without frames where a memory does not number them."""
        return Now()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are kept between passes."""
        return 0

    @abstractmethod
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Self-attention of one layer.

        ``q``, ``k``, ``v`` and the result are ``[B, F * tokens, heads, head_dim]``, after q/k-norm and before RoPE;
        ``k`` and ``v`` may have fewer heads, each shared by as many heads of ``q`` in a row. ``bias`` is added to the
        logits among the frames of this pass; it is broadcast to ``[B, heads, F * tokens, F * tokens]``, and cached keys
        get none. A pass of a phase that writes runs every layer; a pass that only reads may skip layers.
        """

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """In place of ``attend``, of a layer whose output nothing reads: hands over its keys and values. Default:
        ``attend``, with the keys as queries too."""
        self.attend(layer, k, k, v)

    def share(self, x: Tensor) -> Tensor:
        """Of all tokens ``[B, F * tokens, ...]`` those that this process computes, ``1 / n`` of each frame's where n
        processes make one video. Default: all. A network that says ``divides_tokens`` calls it before its layers."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """All tokens, from those of each process: the inverse of ``share``, called after the layers."""
        return x

    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values of a text for one layer, as ``project`` computes them; ``key`` identifies the text."""
        return project()

    def text(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the text for one layer, if computed before the pass; else ``cross`` returns them.

        A compiled network calls this first, since its graphs must not depend on the key of the text
        (``Backbone.text_keys``).
        """
        return None

    def level(self, layer: int) -> tuple[Tensor, ...] | None:
        """Features of the pass's noise level for one layer; None where the network computes them itself.

        They are those that ``Backbone.level_features`` returned.
        """
        return None

    def carry(self, layer: int, name: str, step: Recurrent) -> Tensor:
        """The output of a recurrent layer, whose state is carried from frame to frame.

        Args:
            layer: the layer.
            name: of the state, among those of the layer.
            step: from the state before the first frame of this pass, None at the start of the video, to the output and
                the state after its last frame. A state is a tensor, or tensors in tuples, lists and dicts. Only that of
                a pass that writes is kept.
        """
        return step(None)[0]

    def history(self, frames: Sequence[int]) -> Tensor:
        """Committed latents of these frames, ``[B, len(frames), C, H, W]``. Raises ``UserError`` for others."""
        raise UserError(f"{type(self).__name__} keeps no latents; only the memory of a rollout does.")
