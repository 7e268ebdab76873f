"""Memory of parallel training: a whole clip in one pass, under a mask that says which frames see which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.memory.attention import attention
from rollforge.memory.base import Memory, Now
from rollforge.memory.rope import Rope, Rotation, rotate
from rollforge.spec import ModelSpec


class MaskedMemory(Memory):
    """Attention among the frames of one pass, as a frame-level table allows.

    Rows of ``sees`` are split into runs of equal rows; each run attends to exactly the frames it sees, so that no
    masked score is ever computed and the answer equals that of a cached rollout.

    Args:
        spec: the backbone's.
        times: time index of each frame of the pass.
        sees: bool ``[F, F]``, row = query frame, column = key frame.
        rope: rotary embedding.
    """

    def __init__(self, spec: ModelSpec, times: Sequence[float], sees: Tensor, rope: Rope | None = None) -> None:
        self.spec, self.times, self.rope = spec, tuple(times), rope or Rope()
        self.rotation: Rotation | None = None
        rows = sees.tolist()
        starts = [n for n, row in enumerate(rows) if n == 0 or row != rows[n - 1]]
        ends = [*starts[1:], len(rows)]
        self.runs = [(start, end, _spans(rows[start])) for start, end in zip(starts, ends, strict=True)]

    @classmethod
    def diffusion_forcing(cls, spec: ModelSpec, frames: int, rope: Rope | None = None) -> MaskedMemory:
        """Each block sees itself and the blocks before it, all at whatever noise level they have."""
        block = torch.tensor(spec.block_numbers(frames))
        return cls(spec, range(frames), _within(block, spec) & (block[:, None] >= block), rope)

    @classmethod
    def teacher_forcing(cls, spec: ModelSpec, frames: int, rope: Rope | None = None) -> MaskedMemory:
        """For ``[history, noisy]`` of ``frames`` each: both see earlier history blocks; each block sees itself."""
        block = torch.tensor(spec.block_numbers(frames))
        earlier, same = _within(block, spec) & (block[:, None] > block), block[:, None] == block
        nothing = torch.zeros_like(same)
        sees = torch.cat([torch.cat([earlier | same, nothing], 1), torch.cat([earlier, same], 1)])
        return cls(spec, [*range(frames), *range(frames)], sees, rope)

    @property
    def now(self) -> Now:
        return Now([int(time) for time in self.times], self.times)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.rotation is None:
            self.rotation = self.rope.rotation(self.spec, self.times, q.device)
        q, k = rotate(q, self.rotation), rotate(k, self.rotation)
        size = self.spec.tokens
        outputs = []
        for start, end, spans in self.runs:
            seen = [(k[:, a * size : b * size], v[:, a * size : b * size]) for a, b in spans]
            keys, values = seen[0] if len(seen) == 1 else (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
            outputs.append(attention(q[:, start * size : end * size], keys, values))
        return torch.cat(outputs, dim=1)


def _within(block: Tensor, spec: ModelSpec) -> Tensor:
    """Blocks no further back than the model's window."""
    return block[:, None] - block < -(-spec.window // spec.block)


def _spans(row: list[bool]) -> list[tuple[int, int]]:
    """The runs of True in a row, as half-open ranges."""
    edges = [n for n in range(len(row) + 1) if (n < len(row) and row[n]) != (n > 0 and row[n - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))
