"""Memory of a rollout: a store of raw keys and values, read through a plan.

What the current block sees is laid out in one static buffer per layer, a slot for each ``(content frame, time
index)`` pair of the plan. A pair that stays in the plan keeps its slot; only new pairs are rotated, from the raw
(unrotated) master, once. Slot order does not matter to attention, so nothing is ever shifted. Raw masters are kept of
the frames that a plan may still move to another index or come back to; all others live on in their slot alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError, attribute_errors
from rollforge.memory.attention import attention
from rollforge.memory.base import Memory, Now, Projection
from rollforge.memory.kv_codec import IdentityKVCodec, KVCodec
from rollforge.memory.rope import Rope, Rotation, rotate
from rollforge.spec import ModelSpec, ReadPlan, Step
from rollforge.state import State, moved, odd

Entry = tuple[int, int]


@dataclass
class _View:
    """One layer's rotated context and own block: ``[B, (visible + block) * tokens, heads, head_dim]`` each."""

    keys: Tensor
    values: Tensor
    slots: list[Entry | None] = field(default_factory=list)  # what lies in each slot

    def put(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Fills one slot with a frame's keys and values ``[B, tokens, heads, head_dim]``."""
        place = slice(slot * keys.shape[1], (slot + 1) * keys.shape[1])
        self.keys[:, place], self.values[:, place] = keys, values

    def copy_of(self, slot: int, tokens: int) -> tuple[Tensor, Tensor]:
        """A slot's keys and values, apart from the buffer."""
        place = slice(slot * tokens, (slot + 1) * tokens)
        return self.keys[:, place].clone(), self.values[:, place].clone()

    def moved_to(self, larger: _View) -> _View:
        """A larger buffer with everything that lies in this one."""
        rows = self.keys.shape[1]
        larger.keys[:, :rows], larger.values[:, :rows], larger.slots = self.keys, self.values, self.slots
        return larger


class RolloutMemory(Memory):
    """Cached attention for one rollout (a batch of samples that advance together).

    Args:
        spec: the backbone's.
        visible: upper bound on the context frames of any plan.
        rope: rotary embedding or a transform of it.
        kv_codec: how raw keys and values are kept.
    """

    def __init__(
        self, spec: ModelSpec, visible: int, rope: Rope | None = None, kv_codec: KVCodec | None = None
    ) -> None:
        self.spec, self.visible = spec, visible
        self.rope, self.kv_codec = rope or Rope(), kv_codec or IdentityKVCodec()
        self.raw: dict[int, list[Any]] = {}  # frame -> what the KV codec keeps, layer by layer
        self._slots: list[Entry] = []  # the plan, laid out
        self._shown: set[Entry] = set()  # pairs that every layer's buffer holds
        self._views: dict[int, _View] = {}
        self._staged: dict[int, tuple[Tensor, Tensor]] = {}
        self._texts: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self._rotations: dict[tuple[int, ...], Rotation] = {}
        self._frequencies: Tensor | None = None
        self._step: Step | None = None
        self._now = Now()
        self._place = -1  # the frame whose rotations are kept
        self._query = range(0)

    def begin(self, step: Step, plan: ReadPlan) -> None:
        """Prepares one forward pass, which will see exactly ``plan``."""
        entries = plan.entries()
        if len(entries) > self.visible:
            raise ValueError(
                f"The plan of block {step.index} reads {len(entries)} frames; its policy declared {self.visible}."
            )
        if not self.rope.constant:
            self._follow_rope(step)
        missing = next((pair for pair in entries if not self._holds(pair)), None)
        if missing:
            raise ValueError(
                f"The plan of block {step.index} reads frame {missing[0]}, which is not in the memory (at time index "
                f"{missing[1]}); the policy's live() and revisited() must name it."
            )
        self._slots = _arrange(self._slots, entries)
        if step.start != self._place:  # the passes of one block share their rotations
            self._rotations, self._place = {}, step.start
        self._step, self._query, self._staged = step, range(plan.query, plan.query + len(step.frames)), {}
        self._now = Now(step.frames, self._query, step.phase, step.level, plan)

    @property
    def now(self) -> Now:
        return self._now

    def _holds(self, entry: Entry) -> bool:
        """Whether a frame can be shown at a time index."""
        return entry[0] in self.raw or entry in self._shown

    def _follow_rope(self, step: Step) -> None:
        """Everything is rotated anew where the temporal frequencies have changed."""
        with attribute_errors("rotary embedding", self.rope, f"at block {step.index}"):
            frequencies = self.rope.temporal(self.spec, step)
        if self._frequencies is None or not torch.equal(frequencies, self._frequencies):
            self._frequencies, self._rotations = frequencies, {}
            self._invalidate({content for content, _ in self._slots})

    # Plans are Python: a compiled network breaks here, and so sees the same shapes at every block.
    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        step = self._step
        if step is None:
            raise ValueError("RolloutMemory.begin(step, plan) comes before attend().")
        own = self._rotation(self._query, q.device)
        if step.phase.writes:
            self._staged[layer] = (k, v)
        if torch.is_grad_enabled():  # a differentiable rollout: never write into what the backward pass needs
            seen = [*self._read(layer, self._slots, q.device), (rotate(k, own), v)]
            keys, values = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
            return attention(rotate(q, own), keys, values)
        view = self._view(layer, k, v)
        start = len(self._slots) * self.spec.tokens
        end = start + k.shape[1]
        view.keys[:, start:end] = rotate(k, own)
        view.values[:, start:end] = v
        return attention(rotate(q, own), view.keys[:, :end], view.values[:, :end])

    def end(self, live: frozenset[int], revisited: frozenset[int] | None = None) -> None:
        """Closes a pass. A writing pass enters the store here, whole; frames outside ``live`` are forgotten.

        Of the others only those in ``revisited`` (unset: all) stay raw, and those just written, until every layer has
        shown them.
        """
        step = self._step
        if step is None:
            return
        self._shown = self._in_every_layer()
        written: set[int] = set()
        if step.phase.writes:
            written, size = set(step.frames), self.spec.tokens
            for n, frame in enumerate(step.frames):
                rows = slice(n * size, (n + 1) * size)
                layers = [self._staged_in(layer, step) for layer in range(self.spec.layers)]
                with attribute_errors("KV codec", self.kv_codec, f"encoding frame {frame}"):
                    self.raw[frame] = [self.kv_codec.encode(k[:, rows], v[:, rows]) for k, v in layers]
            self._invalidate(written)
        waiting = {entry[0] for entry in self._slots if entry not in self._shown}
        kept = live if revisited is None or not self.rope.constant else live & (revisited | written | waiting)
        if step.phase.writes or revisited is not None:
            for frame in self.raw.keys() - kept:
                del self.raw[frame]
        self._step, self._now, self._staged = None, Now(), {}

    def forget(self, frames: set[int]) -> None:
        """Drops frames as if no pass had written them."""
        self._invalidate(frames)
        for frame in frames:
            self.raw.pop(frame, None)

    def _in_every_layer(self) -> set[Entry]:
        """Pairs of the plan that each layer's buffer holds; a layer that a pass has left out holds those of before."""
        held = [self._views[layer].slots for layer in range(self.spec.layers) if layer in self._views]
        return set(self._slots).intersection(*held) if len(held) == self.spec.layers else set()

    def _staged_in(self, layer: int, step: Step) -> tuple[Tensor, Tensor]:
        """Keys and values that a layer has handed over in a pass that writes."""
        if layer not in self._staged:
            raise UserError(
                f"The backbone left out layer {layer} in a pass that writes (block {step.index}, {step.phase.value}); "
                f"such a pass must call memory.attend in each of its {self.spec.layers} layers."
            )
        return self._staged[layer]

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return project()
        if (layer, key) not in self._texts:
            self._texts = {place: kept for place, kept in self._texts.items() if place[1] == key}
            self._texts[layer, key] = project()
        return self._texts[layer, key]

    def state_dict(self) -> State:
        """All that later passes depend on, between two passes.

        Each live frame is there once: as its raw keys and values, from which its slot is filled anew, or else as it
        lies in its slot.
        """
        if where := odd(self.raw):
            raise UserError(
                f"{type(self.kv_codec).__name__} keeps keys and values that are neither tensors nor plain data "
                f"({where}); let its encode answer those, or roll without snapshots."
            )
        bare = [slot for slot, entry in enumerate(self._slots) if entry in self._shown and entry[0] not in self.raw]
        held = {
            layer: [view.copy_of(view.slots.index(self._slots[slot]), self.spec.tokens) for slot in bare]
            for layer, view in self._views.items()
        }
        return {"raw": self.raw, "slots": self._slots, "bare": bare, "held": held, "frequencies": self._frequencies}

    def lacks(self, plan: ReadPlan, revisited: frozenset[int]) -> set[int]:
        """Frames of a plan that it cannot be given, and those of ``revisited`` that are not here raw."""
        unread = {pair[0] for pair in plan.entries() if not self._holds(pair)}
        return unread | {*revisited} - self.raw.keys()

    def load_state_dict(self, state: State, device: torch.device) -> None:
        """Takes up, in a new memory on ``device``, what ``state_dict`` told."""
        state = moved(state, device)
        self.raw, self._slots, self._frequencies = state["raw"], state["slots"], state["frequencies"]
        self._shown = {self._slots[slot] for slot in state["bare"]}
        for layer, pieces in state["held"].items():
            if pieces:
                k, v = pieces[0]
                slots = max(self.visible, len(self._slots))  # a policy that sees fewer may go on from here
                view = self._views[layer] = self._blank(k, v, slots + self.spec.block)
                view.slots = [entry if entry in self._shown else None for entry in self._slots]
                for slot, piece in zip(state["bare"], pieces, strict=True):
                    view.put(slot, *piece)

    def _blank(self, k: Tensor, v: Tensor, frames: int) -> _View:
        """An empty buffer for that many frames, for keys and values like these."""
        rows = frames * self.spec.tokens
        return _View(k.new_zeros(k.shape[0], rows, *k.shape[2:]), v.new_zeros(v.shape[0], rows, *v.shape[2:]))

    def _view(self, layer: int, k: Tensor, v: Tensor) -> _View:
        """This layer's buffer, holding the plan: only slots whose entry changed are rotated and copied."""
        view, frames = self._views.get(layer), self.visible + k.shape[1] // self.spec.tokens
        if view is None or view.keys.shape[1] < frames * self.spec.tokens:
            larger = self._blank(k, v, frames)
            view = self._views[layer] = view.moved_to(larger) if view else larger
        held = [*view.slots, *[None] * len(self._slots)]
        changed = [slot for slot, entry in enumerate(self._slots) if entry != held[slot]]
        if changed:
            fresh = [self._slots[slot] for slot in changed if self._slots[slot][0] in self.raw]
            pieces = dict(zip(fresh, self._read(layer, fresh, k.device), strict=True)) if fresh else {}
            for entry in (self._slots[slot] for slot in changed):
                if entry not in pieces:  # no master is left: it moves within the buffer
                    pieces[entry] = view.copy_of(view.slots.index(entry), self.spec.tokens)
            for slot in changed:
                view.put(slot, *pieces[self._slots[slot]])
        view.slots = list(self._slots)
        return view

    def _read(self, layer: int, entries: Sequence[Entry], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Rotated keys, and values, of each of these entries."""
        if not entries:
            return []
        with attribute_errors("KV codec", self.kv_codec, f"decoding frames for layer {layer}"):
            decoded = [self.kv_codec.decode(self.raw[content][layer]) for content, _ in entries]
        keys, values = zip(*decoded, strict=True)
        rotated = rotate(torch.cat(keys, dim=1), self._rotation([time for _, time in entries], device))
        return list(zip(rotated.split(self.spec.tokens, dim=1), values, strict=True))

    def _invalidate(self, frames: set[int]) -> None:
        """The keys of these frames are no longer what the buffers show."""
        self._shown = {entry for entry in self._shown if entry[0] not in frames}
        for view in self._views.values():
            view.slots = [None if entry and entry[0] in frames else entry for entry in view.slots]

    def _rotation(self, times: Sequence[int], device: torch.device) -> Rotation:
        key = tuple(times)
        if key not in self._rotations:
            with attribute_errors("rotary embedding", self.rope, f"at time indices {min(key)} to {max(key)}"):
                self._rotations[key] = self.rope.rotation(self.spec, key, device, self._step)
        return self._rotations[key]


def _arrange(slots: list[Entry], entries: Sequence[Entry]) -> list[Entry]:
    """A slot for every entry: those already in place stay, the others fill the slots left over."""
    waiting = list(entries)
    placed: list[Entry | None] = [None] * len(waiting)
    for slot, entry in enumerate(slots[: len(placed)]):
        if entry in waiting:
            waiting.remove(entry)
            placed[slot] = entry
    fresh = iter(waiting)
    return [entry if entry is not None else next(fresh) for entry in placed]
