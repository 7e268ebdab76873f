"""Memory of parallel training: a whole clip in one pass, under a mask that says which frames see which."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory.attention import attention
from rollforge.memory.base import Recurrent
from rollforge.memory.full import FullMemory
from rollforge.positions import Positions
from rollforge.spec import ModelSpec


class MaskedMemory(FullMemory):
    """Attention among the frames of one pass, as a frame-level table allows.

    Rows of ``sees`` are split into runs of equal rows; each run attends to exactly the frames it sees, so that no
    masked score is ever computed and the answer equals that of a cached rollout.

    Args:
        spec: the backbone's.
        times: time index of each frame of the pass.
        sees: bool ``[F, F]``, row = query frame, column = key frame.
        positions: what turns queries and keys. Default: ``Rope()``.
    """

    def __init__(
        self, spec: ModelSpec, times: Sequence[float], sees: Tensor, positions: Positions | None = None
    ) -> None:
        super().__init__(spec, times, positions)
        rows = sees.tolist()
        starts = [n for n, row in enumerate(rows) if n == 0 or row != rows[n - 1]]
        ends = [*starts[1:], len(rows)]
        self.runs = [(start, end, _spans(rows[start])) for start, end in zip(starts, ends, strict=True)]

    @classmethod
    def diffusion_forcing(cls, spec: ModelSpec, frames: int, positions: Positions | None = None) -> MaskedMemory:
        """Each block sees itself and the blocks before it, all at whatever noise level they have."""
        block = torch.tensor(spec.block_numbers(frames))
        return cls(spec, range(frames), _within(block, spec) & (block[:, None] >= block), positions)

    @classmethod
    def teacher_forcing(cls, spec: ModelSpec, frames: int, positions: Positions | None = None) -> MaskedMemory:
        """For ``[history, noisy]`` of ``frames`` each: both see earlier history blocks; each block sees itself."""
        block = torch.tensor(spec.block_numbers(frames))
        earlier, same = _within(block, spec) & (block[:, None] > block), block[:, None] == block
        nothing = torch.zeros_like(same)
        sees = torch.cat([torch.cat([earlier | same, nothing], 1), torch.cat([earlier, same], 1)])
        return cls(spec, [*range(frames), *range(frames)], sees, positions)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k = self.turned(layer, q), self.turned(layer, k)
        if bias is not None:
            bias = bias.expand(*bias.shape[:-2], q.shape[1], k.shape[1])
        size = self.spec.tokens
        outputs = []
        for start, end, spans in self.runs:
            rows, columns = slice(start * size, end * size), [slice(a * size, b * size) for a, b in spans]
            keys, values = (_joined([x[:, each] for each in columns], 1) for x in (k, v))
            seen = None if bias is None else _joined([bias[..., rows, each] for each in columns], -1)
            outputs.append(attention(q[:, rows], keys, values, seen))
        return torch.cat(outputs, dim=1)

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


def _spans(row: list[bool]) -> list[tuple[int, int]]:
    """The runs of True in a row, as half-open ranges."""
    edges = [n for n in range(len(row) + 1) if (n < len(row) and row[n]) != (n > 0 and row[n - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))
