"""The memory of a rollout that commits a block and starts the next one in the same pass (``fuse_commit``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rollforge.devices import sent
from rollforge.memory.base import Now
from rollforge.memory.combine import Combine
from rollforge.memory.kv_codec import KVCodec
from rollforge.memory.reading import Following, Reading
from rollforge.memory.rollout import RolloutMemory
from rollforge.memory.slots import Changes, Entry, Piece
from rollforge.positions import Positions
from rollforge.ranges import CountFromZero
from rollforge.spec import ModelSpec, ReadPlan, Step


class PairedMemory(RolloutMemory):
    """A ``RolloutMemory`` that can also run two blocks in one pass: the commit of the first, and a pass of the second.

    Each block attends by itself, with its own plan, so that the first does not see the second. In between, the keys of
    the first are written into the slots that the second reads.
    """

    def __init__(
        self,
        spec: ModelSpec,
        visible: CountFromZero,
        positions: Positions | None = None,
        kv_codec: KVCodec | None = None,
        combine: Combine | None = None,
    ) -> None:
        super().__init__(spec, visible, positions, kv_codec, combine)
        self._paired = 0  # frames of the block that is committed, while two run in one pass
        self._coming = range(0)  # its frames, while the plan of the second is followed
        self._marks: dict[int, Changes] = {}  # what the pass writes into the slots of each layer
        self._before: list[list[Entry]] = []  # what the first block reads

    def pairs(self, first: Step, plan: ReadPlan, second: Step, following: ReadPlan) -> bool:
        """Whether the two can run in one pass. Positions must not rotate all keys again in between."""
        if torch.is_grad_enabled() or not can_follow(first, plan, second, following):
            return False
        keys = [self.positions.key(self._placed_spec, *each) for each in ((first, plan), (second, following))]
        return bool(keys[0] == keys[1])

    def begin_pair(self, first: Step, plan: ReadPlan, second: Step, following: ReadPlan, live: frozenset[int]) -> None:
        """Prepares one pass of both blocks, for which ``pairs`` holds.

        Args:
            first: the block that is committed.
            plan: what it reads.
            second: a pass of the block after it.
            following: what that reads.
            live: frames that are kept once the first is committed.
        """
        self.begin(first, plan)
        now, readings, self._before = self._now, self._readings, self._layouts
        self._check(second, following)
        times = range(following.query, following.query + len(second.frames))
        self._step, self._now = second, Now(second.frames, times, second.phase, second.level, following)
        self._live, self._known, self._coming = live, None, first.frames
        self._arrange(second, following)
        prepared = self._follow(first, self._read(second, following))
        self._readings = [replace(reading, following=each) for reading, each in zip(readings, prepared, strict=True)]
        self._step, self._paired, self._coming = first, len(first.frames), range(0)
        self._now = replace(
            self._now, frames=both(first, second).frames, times=(*now.times, *times), unread_frames=len(first.frames)
        )

    def _follow(self, first: Step, readings: Sequence[Reading]) -> list[Following | None]:
        """What the second block reads in each layer, and the slots that are written for it."""
        made: list[Following | None] = [None] * self.spec.layers
        frames = len(first.frames)
        for changes, layers in self._changes().items():
            fresh, moved = changes.of(first.frames), changes.but(first.frames)
            times = [time for _, time in fresh.entries]
            placements, pieces = self._placed(times), self._pieces(layers, moved.entries) if moved.slots else None
            rows = [self._rows([frames + slot for slot in each.slots]) for each in (fresh, moved)]
            sources = self._rows([frame - first.start for frame, _ in fresh.entries])
            for n, layer in enumerate(layers):
                self._park(layer, changes.slots)
                self._views[layer].empty(changes.slots)
                self._marks[layer] = changes
                piece: Piece | None = pieces[n] if pieces else None
                made[layer] = Following(
                    frames * self.spec.tokens, rows[0], sources, placements[layer], rows[1] if piece else None, piece,
                    readings[layer],
                )  # fmt: skip
        return made

    def _rows(self, numbers: Sequence[int]) -> Tensor:
        return rows_of(numbers, self.spec.tokens, self._where)

    def _holds(self, entry: Entry, layers: Sequence[int]) -> bool:
        return entry[0] in self._coming or super()._holds(entry, layers)

    def reading_with(self, others: Sequence[RolloutMemory], layer: int) -> Reading | None:
        if not self._paired:
            return super().reading_with(others, layer)
        own, memories = self._readings[layer], [self, *(each for each in others if isinstance(each, PairedMemory))]
        following = [each._readings[layer].following for each in memories]
        known = [each for each in following if each is not None]
        plain = own.context == [None] and all(each.reading.context == [None] for each in known)
        alike = all(
            each._before[layer] == self._before[layer] and each._marks.get(layer) == self._marks.get(layer)
            for each in memories
        )
        if not (self._in_parts and plain and alike and self.joint and len(known) == len(memories)):
            return None
        buffer = self.joint[0].whole(layer, [each._views[layer] for each in memories])
        if buffer is None:
            return None
        frames = self._paired
        keys, values = buffer.read(frames, len(self._before[layer]))
        together = known[0].of_all(known[1:], buffer, frames, len(self._layouts[layer]))
        return replace(own, keys=keys, values=values, following=together)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        if self._paired:  # a number, which is the same in all passes of a compiled network
            rows = self._paired * self.spec.tokens
            k, v = k[:, :rows], v[:, :rows]
        super().write(layer, k, v)

    def read(self, layer: int, reading: Reading, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """As ``RolloutMemory.read``. Where a network leaves out the queries of the first block, only the second
        attends."""
        if (following := reading.following) is None:
            return super().read(layer, reading, q, k, v, bias)
        rows, outputs = following.tokens, []
        (k, later_k), (v, later_v) = (x.tensor_split([rows], 1) for x in (k, v))
        if q.shape[1] > later_k.shape[1]:
            q, later_q = q.tensor_split([rows], 1)
            outputs.append(super().read(layer, reading, q, k, v))
        else:
            later_q = q
        following.fill(self._turn, k, v)
        outputs.append(super().read(layer, following.reading, later_q, later_k, later_v))
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]

    def end(self, live: frozenset[int], moves: frozenset[int] | None = None) -> None:
        super().end(live, moves)
        marks, self._marks, self._paired = self._marks, {}, 0
        for layer, changes in marks.items():
            self._mark(layer, changes)


def can_follow(first: Step, plan: ReadPlan, second: Step, following: ReadPlan) -> bool:
    """Whether one pass can commit ``first`` under its plan and run ``second`` under another.

    The first must read something, so that there are buffers, and the second must read the first, both in all layers
    alike. Plans whose softmax has several branches, or whose tokens a tensor chooses, need a pass of their own.
    """
    runs = (*plan.segments, *following.segments)
    simple = all(run.layers is None and not run.branch and not isinstance(run.tokens, Tensor) for run in runs)
    reads = any(frame in first.frames for frame, _ in following.entries())
    return bool(plan.segments) and simple and reads and len(first.frames) == len(second.frames)


def both(first: Step, second: Step) -> Step:
    """The frames of two blocks as one pass."""
    return replace(second, start=first.start, count=len(first.frames) + len(second.frames))


def rows_of(numbers: Sequence[int], tokens: int, device: torch.device) -> Tensor:
    """The rows of frames or slots, ``tokens`` for each."""
    first = torch.tensor(numbers, dtype=torch.long) * tokens
    return sent((first[:, None] + torch.arange(tokens)).flatten(), device)
