"""Memory of parallel training: a whole clip in one pass, under a mask that says which frames attend to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory.attention import attention
from rollforge.memory.base import Recurrent
from rollforge.memory.full import FullMemory
from rollforge.memory.routing import Routing
from rollforge.positions import Positions
from rollforge.spec import ModelSpec


@dataclass(frozen=True)
class Run:
    """Query frames ``start`` to ``end``, all of which attend to the frames ``seen``."""

    start: int
    end: int
    seen: list[int]

    @property
    def history(self) -> list[int]:
        """Places in ``seen`` of the frames that are not queries themselves."""
        return [n for n, frame in enumerate(self.seen) if not self.start <= frame < self.end]


class MaskedMemory(FullMemory):
    """Attention among the frames of one pass, as a frame-level table allows.

    Rows of ``sees`` are split into runs of equal rows; each run attends to exactly its frames. No masked
    score is computed, and the result equals that of a cached rollout.

    Args:
        spec: the backbone's.
        times: time index of each frame of the pass.
        sees: bool ``[F, F]``, row = query frame, column = key frame.
        positions: how queries and keys are rotated. Default: ``Rope()``.
        routing: how each query token chooses among its history frames, as ``RoutedMemory`` does in a rollout. The
            frames of a run itself are always attended to. Default: all history frames.
    """

    def __init__(
        self,
        spec: ModelSpec,
        times: Sequence[float],
        sees: Tensor,
        positions: Positions | None = None,
        routing: Routing | None = None,
    ) -> None:
        super().__init__(spec, times, positions)
        self.routing = routing
        rows = sees.tolist()
        starts = [n for n, row in enumerate(rows) if n == 0 or row != rows[n - 1]]
        self.runs = [
            Run(start, end, [n for n, seen in enumerate(rows[start]) if seen])
            for start, end in pairwise([*starts, len(rows)])
        ]

    @classmethod
    def diffusion_forcing(
        cls, spec: ModelSpec, frames: int, positions: Positions | None = None, routing: Routing | None = None
    ) -> MaskedMemory:
        """Each block attends to itself and the blocks before it, all at whatever noise level they have."""
        block = torch.tensor(spec.block_numbers(frames))
        return cls(spec, range(frames), _within(block, spec) & (block[:, None] >= block), positions, routing)

    @classmethod
    def teacher_forcing(
        cls, spec: ModelSpec, frames: int, positions: Positions | None = None, routing: Routing | None = None
    ) -> MaskedMemory:
        """For ``[history, noisy]`` of ``frames`` each: every block attends to earlier history blocks and itself."""
        block = torch.tensor(spec.block_numbers(frames))
        earlier, same = _within(block, spec) & (block[:, None] > block), block[:, None] == block
        nothing = torch.zeros_like(same)
        sees = torch.cat([torch.cat([earlier | same, nothing], 1), torch.cat([earlier, same], 1)])
        return cls(spec, [*range(frames), *range(frames)], sees, positions, routing)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k = self.turned(layer, q), self.turned(layer, k)
        if bias is not None:
            bias = bias.expand(*bias.shape[:-2], q.shape[1], k.shape[1])
        size = self.spec.tokens
        outputs = []
        for run in self.runs:
            rows = slice(run.start * size, run.end * size)
            columns = [slice(a * size, b * size) for a, b in _spans(run.seen)]
            queries, keys, values = q[:, rows], *(_joined([x[:, each] for each in columns], 1) for x in (k, v))
            seen = None if bias is None else _joined([bias[..., rows, each] for each in columns], -1)
            outputs.append(attention(queries, keys, values, self._routed(run, queries, keys, seen)))
        return torch.cat(outputs, dim=1)

    def _routed(self, run: Run, q: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor | None:
        """``bias``, with the history tokens hidden that a query token does not keep."""
        history = run.history
        if self.routing is None or self.routing.keeps_all(len(history)):
            return bias
        size = self.spec.tokens
        earlier = keys.unflatten(1, (-1, size))[:, history].flatten(1, 2)
        hidden = self.routing.bias(q, earlier, size, [run.seen[n] for n in history])
        route = hidden.new_zeros(*hidden.shape[:-1], len(run.seen), size)
        route[..., history, :] = hidden.unflatten(-1, (-1, size))
        route = route.flatten(-2)
        return route if bias is None else bias + route

    def carry(self, layer: int, name: str, step: Recurrent) -> Tensor:
        if any(later <= earlier for earlier, later in pairwise(self.times)):
            raise UserError(
                f"The backbone carries a recurrent state ({name!r}) from frame to frame, and this pass shows history "
                "and noisy copies of the same frames; train it with an objective that shows each frame once, such as "
                "DiffusionForcing."
            )
        return super().carry(layer, name, step)


def _joined(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)


def _within(block: Tensor, spec: ModelSpec) -> Tensor:
    """Blocks no further back than the model's window."""
    return block[:, None] - block < -(-spec.window // spec.block)


def _spans(frames: list[int]) -> list[tuple[int, int]]:
    """Runs of frames in a row, as half-open ranges, in order."""
    edges = [n for n, frame in enumerate(frames) if n == 0 or frame != frames[n - 1] + 1]
    return [(frames[a], frames[b - 1] + 1) for a, b in pairwise([*edges, len(frames)])]
