"""What the network of one process calls: it has a share of the tokens, and exchanges them for heads to attend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory.base import Memory, Now, Projection, Recurrent
from rollforge.parallel.group import ContextGroup
from rollforge.spec import ModelSpec


class TokenShares(Memory):
    """Around the memory of a process, in one pass.

    Between ``share`` and ``gather`` the network has ``tokens / processes`` tokens of each frame, so that what is of a
    frame (noise level, modulation, position) stays as it is.

    Args:
        inner: the memory that attends, made for the heads of this process.
        group: the processes of the video.
        spec: the backbone's.
    """

    def __init__(self, inner: Memory, group: ContextGroup, spec: ModelSpec) -> None:
        self.inner, self.group = inner, group
        self.tokens, self.kept = spec.tokens, spec.tokens // group.division.keys

    @property
    def now(self) -> Now:
        return self.inner.now

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes

    def share(self, x: Tensor) -> Tensor:
        return self.group.divide_tokens(x, self.tokens)

    def gather(self, x: Tensor) -> Tensor:
        return self.group.gather_tokens(x, self.tokens)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None or torch.is_grad_enabled():
            what = "adds a bias to its attention" if bias is not None else "runs with gradients"
            raise UserError(f"The backbone {what}, which model.context_parallel cannot divide; use one process.")
        q, k, v = self._by_heads(q, k, v) if q.shape == k.shape else (*self._by_heads(q), *self._by_heads(k, v))
        return self.group.tokens_for_heads(self.inner.attend(layer, q, k, v), self.kept)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        self.inner.write(layer, *self._by_heads(k, v))

    def text(self, layer: int) -> tuple[Tensor, Tensor] | None:
        return self.inner.text(layer)

    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        return self.inner.cross(layer, key, project)

    def level(self, layer: int) -> tuple[Tensor, ...] | None:
        return self.inner.level(layer)

    def carry(self, layer: int, name: str, step: Recurrent) -> Tensor:
        raise UserError(
            f"The backbone carries the state {name!r}, which model.context_parallel cannot divide among processes; "
            "generate with one process for each video."
        )

    def history(self, frames: Sequence[int]) -> Tensor:
        return self.inner.history(frames)

    def _by_heads(self, *each: Tensor) -> tuple[Tensor, ...]:
        """Tensors of one shape, each with all tokens of the heads of this process; exchanged at once."""
        if self.group.division.heads == 1:
            return each
        return self.group.heads_for_tokens(torch.cat(each), self.kept).chunk(len(each))
