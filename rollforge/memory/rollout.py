"""Memory of a rollout: a store of raw keys and values, read through a plan.

Raw (unrotated) keys of committed frames are kept while the policy may still read them. What the current block sees
is laid out in one static buffer per layer, a slot for each ``(content frame, time index)`` pair of the plan. A pair
that stays in the plan keeps its slot; only new pairs are rotated, from the raw master, once. Slot order does not
matter to attention, so nothing is ever shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rollforge.memory.attention import attention
from rollforge.memory.base import Memory, Projection
from rollforge.memory.kv import KVCodec, Plain
from rollforge.memory.rope import Rope, Rotation, rotate
from rollforge.spec import ModelSpec, ReadPlan, Step

Entry = tuple[int, int]


@dataclass
class _View:
    """One layer's rotated context and own block: ``[B, (visible + block) * tokens, heads, head_dim]`` each."""

    keys: Tensor
    values: Tensor
    slots: list[Entry | None] = field(default_factory=list)  # what lies in each slot


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
        self.rope, self.kv_codec = rope or Rope(), kv_codec or Plain()
        self.raw: dict[int, list[Any]] = {}  # frame -> what the KV codec keeps, layer by layer
        self._slots: list[Entry] = []  # the plan, laid out
        self._views: dict[int, _View] = {}
        self._staged: dict[int, tuple[Tensor, Tensor]] = {}
        self._texts: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self._rotations: dict[tuple[int, ...], Rotation] = {}
        self._frequencies: Tensor | None = None
        self._step: Step | None = None
        self._query = range(0)

    def begin(self, step: Step, plan: ReadPlan) -> None:
        """Prepares one forward pass, which will see exactly ``plan``."""
        entries = plan.entries()
        if len(entries) > self.visible:
            raise ValueError(
                f"The plan of block {step.index} reads {len(entries)} frames; its policy declared {self.visible}."
            )
        missing = sorted({content for content, _ in entries} - self.raw.keys())
        if missing:
            raise ValueError(f"The plan of block {step.index} reads frame {missing[0]}, which is not in the memory.")
        frequencies = self.rope.temporal(self.spec, step)
        if self._frequencies is None or not torch.equal(frequencies, self._frequencies):
            self._frequencies = frequencies
            self._invalidate({content for content, _ in self._slots})
        self._slots = _arrange(self._slots, entries)
        self._step, self._query = step, range(plan.query, plan.query + len(step.frames))
        self._rotations, self._staged = {}, {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        step = self._step
        if step is None:
            raise ValueError("RolloutMemory.begin(step, plan) comes before attend().")
        own = self._rotation(self._query, q.device)
        if step.phase.writes:
            self._staged[layer] = (k, v)
        if torch.is_grad_enabled():  # a differentiable rollout: never write into what the backward pass needs
            keys, values = self._read(layer, self._slots, q.device) if self._slots else (k[:, :0], v[:, :0])
            keys = torch.cat([keys, rotate(k, own)], dim=1)
            return attention(rotate(q, own), keys, torch.cat([values, v], dim=1))
        view = self._view(layer, k, v)
        seen = len(self._slots) * self.spec.tokens
        end = seen + k.shape[1]
        view.keys[:, seen:end] = rotate(k, own)
        view.values[:, seen:end] = v
        return attention(rotate(q, own), view.keys[:, :end], view.values[:, :end])

    def end(self, live: frozenset[int]) -> None:
        """Closes a pass. A writing pass enters the store here, whole; frames outside ``live`` are forgotten."""
        if self._step is not None and self._step.phase.writes:
            frames, size = self._step.frames, self.spec.tokens
            for n, frame in enumerate(frames):
                rows = slice(n * size, (n + 1) * size)
                layers = [self._staged[layer] for layer in range(self.spec.layers)]
                self.raw[frame] = [self.kv_codec.encode(k[:, rows], v[:, rows]) for k, v in layers]
            self._invalidate(set(frames))
            for frame in self.raw.keys() - live:
                del self.raw[frame]
        self._step, self._staged = None, {}

    def cross(self, layer: int, key: str, text: Tensor, project: Projection) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return project(text)
        if (layer, key) not in self._texts:
            self._texts = {place: kept for place, kept in self._texts.items() if place[1] == key}
            self._texts[layer, key] = project(text)
        return self._texts[layer, key]

    def _view(self, layer: int, k: Tensor, v: Tensor) -> _View:
        """This layer's buffer, holding the plan: only slots whose entry changed are rotated and copied."""
        view, rows = self._views.get(layer), self.visible * self.spec.tokens + k.shape[1]
        if view is None or view.keys.shape[1] < rows:
            view = _View(k.new_zeros(k.shape[0], rows, *k.shape[2:]), v.new_zeros(v.shape[0], rows, *v.shape[2:]))
            self._views[layer] = view
        held = [*view.slots, *[None] * len(self._slots)]
        changed = [slot for slot, entry in enumerate(self._slots) if entry != held[slot]]
        if changed:
            size = self.spec.tokens
            keys, values = self._read(layer, [self._slots[slot] for slot in changed], k.device)
            for slot, key, value in zip(changed, keys.split(size, dim=1), values.split(size, dim=1), strict=True):
                place = slice(slot * size, (slot + 1) * size)
                view.keys[:, place], view.values[:, place] = key, value
        view.slots = list(self._slots)
        return view

    def _read(self, layer: int, entries: Sequence[Entry], device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotated keys, and values, of these entries, one after the other."""
        keys, values = zip(*(self.kv_codec.decode(self.raw[content][layer]) for content, _ in entries), strict=True)
        times = [time for _, time in entries]
        return rotate(torch.cat(keys, dim=1), self._rotation(times, device)), torch.cat(values, dim=1)

    def _invalidate(self, frames: set[int]) -> None:
        """The keys of these frames are no longer what the buffers show."""
        for view in self._views.values():
            view.slots = [None if entry and entry[0] in frames else entry for entry in view.slots]

    def _rotation(self, times: Sequence[int], device: torch.device) -> Rotation:
        key = tuple(times)
        if key not in self._rotations:
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
