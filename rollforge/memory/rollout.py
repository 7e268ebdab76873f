"""Memory of a rollout: a store of raw keys and values, read through a plan.

What a pass reads is laid out in one static buffer per layer, a slot for each ``(content frame, time index)`` pair of
the plan, before the network runs: ``begin`` fills the slots of all layers, ``attend`` only computes, ``end`` stores. A
pair that stays in the plan keeps its slot; only new pairs are turned, from the raw (unrotated) master, once. Slot order
does not matter to attention, so nothing is ever shifted. Raw masters are kept of the frames that a plan may still move
to another index; all others live on as they were first turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError, attribute_errors
from rollforge.memory.attention import attention
from rollforge.memory.base import Now, Projection, Recurrent
from rollforge.memory.bias import branches_of, causal_bias, check_segments, context_bias, joined
from rollforge.memory.cached import CachedMemory
from rollforge.memory.combine import Combine
from rollforge.memory.kv_codec import IdentityKVCodec, KVCodec
from rollforge.memory.recurrent import RecurrentStates
from rollforge.memory.slots import Entry, Piece, View, arrange
from rollforge.memory.virtual import blended
from rollforge.positions import Positions, Rope
from rollforge.positions.base import Placement, placed, refusal
from rollforge.spec import ModelSpec, ReadPlan, Segment, Step, Virtual
from rollforge.state import State, moved, odd, tensors_of

Runs = tuple[Segment, ...]


class RolloutMemory(CachedMemory):
    """Cached attention for one rollout (a batch of samples that advance together).

    Args:
        spec: the backbone's.
        visible: upper bound on the context frames of any plan.
        positions: what turns queries and keys. Default: ``Rope()``.
        kv_codec: how raw keys and values are kept. Default: as they are.
        combine: what joins the branches of a plan.
    """

    def __init__(
        self,
        spec: ModelSpec,
        visible: int,
        positions: Positions | None = None,
        kv_codec: KVCodec | None = None,
        combine: Combine | None = None,
    ) -> None:
        self.spec, self.visible, self.combine = spec, visible, combine
        self.positions, self.kv_codec = positions or Rope(), kv_codec or IdentityKVCodec()
        self.raw: dict[int, list[Any]] = {}  # frame -> what the KV codec keeps, layer by layer
        self.rotated: set[int] = set()  # virtual frames whose keys keep the rotation of their birth
        self.born: dict[int, int] = {}  # frame -> the time index at which it was written
        self._layouts: list[list[Entry]] = [[] for _ in range(spec.layers)]  # what the slots hold during a pass
        self._views: dict[int, View] = {}
        self._parked: dict[int, dict[Entry, Piece]] = {}  # turned, and for now in no slot; there is no raw master
        self._attending = set(range(spec.layers))  # layers that have keys; the others only carry states
        self._staged: dict[int, Piece] = {}
        self._states = RecurrentStates()
        self._texts: dict[tuple[int, str], Piece] = {}
        self._placements: dict[tuple[float, ...], list[Placement]] = {}
        self._key: Any = None
        self._step: Step | None = None
        self._now = Now()
        self._live: frozenset[int] = frozenset()
        self._start = -1  # of the pass that the placements were made for
        self._runs: list[Runs] = []
        self._orders: list[list[int]] = []
        self._biases: list[list[Tensor | None]] = []
        self._differentiable = False

    @property
    def now(self) -> Now:
        return self._now

    @property
    def nbytes(self) -> int:
        kept = [self.raw, self._parked, self._texts, self._states.kept]
        views = [tensor for view in self._views.values() for tensor in (view.keys, view.values)]
        return sum(tensor.nbytes for tensor in (*views, *tensors_of(kept)))

    # Before the network: all Python.

    def make(self, block: int, virtual: Sequence[Virtual]) -> None:
        fresh: dict[int, list[Any]] = {}
        for each in virtual:
            if missing := [frame for frame in each.of if frame not in self.raw]:
                raise ValueError(
                    f"Virtual frame {each.frame} of block {block} is made from frame {missing[0]}, which is not kept "
                    "raw; the policy's live() and moves() must name it."
                )
            if not each.rotated and (turned := self.rotated.intersection(each.of)):
                raise ValueError(
                    f"Virtual frame {each.frame} of block {block} is made from frame {min(turned)}, whose keys are "
                    "rotated; it must be rotated too."
                )
            fresh[each.frame] = [self._blend(each, layer) for layer in range(self.spec.layers)]
        self.rotated = (self.rotated - fresh.keys()) | {each.frame for each in virtual if each.rotated}
        self.raw |= fresh
        self._invalidate(set(fresh))

    def begin(self, step: Step, plan: ReadPlan) -> None:
        self._check(step, plan)
        self._differentiable = torch.is_grad_enabled()
        if step.start != self._start:  # the passes of one block share their placements
            self._placements, self._start = {}, step.start
        self._follow_positions(step, plan)
        layered = any(run.layers is not None for run in plan.segments)
        self._runs = [
            tuple(run for run in plan.segments if run.layers is None or layer in run.layers) if layered
            else plan.segments
            for layer in range(self.spec.layers)
        ]  # fmt: skip
        self._check_content(step)
        self._step, self._staged = step, {}
        times = range(plan.query, plan.query + len(step.frames))
        self._now = Now(step.frames, times, step.phase, step.level, plan)
        self._arrange()
        if not self._differentiable:
            for layer in sorted(self._attending):
                self._fill(layer, len(step.frames))
        self._biases = self._context_biases() if self._views or self._differentiable else []

    def _check(self, step: Step, plan: ReadPlan) -> None:
        """Raises ``ValueError`` for a plan that this memory cannot follow, whatever it holds."""
        check_segments(plan, self.spec)
        if why := refusal(self.positions, plan, step):
            raise ValueError(why)
        if self.combine is None and (branch := max((run.branch for run in plan.segments), default=0)):
            raise ValueError(
                f"The plan of block {step.index} has a segment in branch {branch}, and no part of kind combine is "
                "there to join branches; name one in model.combine."
            )

    def _follow_positions(self, step: Step, plan: ReadPlan) -> None:
        """All keys are turned again where what their placements depend on has changed."""
        with attribute_errors("positions", self.positions, f"at block {step.index}"):
            key = self.positions.key(self.spec, step, plan)
        if key is not None and key != self._key:
            self._key, self._placements = key, {}
            self._invalidate({frame for frame in self.raw if frame not in self.rotated})

    def _check_content(self, step: Step) -> None:
        """Raises ``ValueError`` for a plan with more frames than were declared, or with frames that are not here."""
        checked: set[int] = set()
        for layer, runs in enumerate(self._runs):
            if id(runs) in checked:
                continue
            checked.add(id(runs))
            entries = [pair for run in runs for pair in run.entries()]
            if len(entries) > self.visible:
                raise ValueError(
                    f"The plan of block {step.index} reads {len(entries)} frames; its policy declared {self.visible}."
                )
            layers = [layer] if len({id(each) for each in self._runs}) > 1 else sorted(self._attending)
            for frame, time in entries:
                if not self._holds((frame, time), layers):
                    raise ValueError(
                        f"The plan of block {step.index} reads frame {frame}, which is not in the memory (at time "
                        f"index {time}); the policy's live() and moves() must name it."
                    )

    def _arrange(self) -> None:
        """Lays out the plan in the slots of every layer."""
        known: dict[Any, list[int]] = {}
        self._orders, layouts = [], []
        for layout, runs in zip(self._layouts, self._runs, strict=True):
            entries = [pair for run in runs for pair in run.entries()]
            which = id(runs), tuple(layout)
            order = known.setdefault(which, []) or arrange(layout, entries)
            known[which] = order
            self._orders.append(order)
            layouts.append([entries[n] for n in order])
        self._layouts = layouts

    def _fill(self, layer: int, own: int) -> None:
        """Puts the plan into a layer's slots: only those whose entry has changed are turned and copied."""
        layout, view = self._layouts[layer], self._views.get(layer)
        if view is not None:
            view = self._views[layer] = view.widened(own)
        held: Sequence[Entry | None] = view.slots if view else [None] * len(layout)
        changed = [slot for slot, entry in enumerate(layout) if entry != held[slot]]
        if not changed:
            return
        pieces = self._pieces(layer, [layout[slot] for slot in changed])
        if view is None:
            view = self._views[layer] = self._blank(*pieces[layout[changed[0]]], own)
        leaving = {entry for slot in changed if (entry := view.slots[slot]) and self._is_bare(entry)}
        parked = self._parked.setdefault(layer, {})
        parked |= {entry: view.copy_of(entry) for entry in leaving - set(layout)}
        for slot in changed:
            view.fill(slot, layout[slot], pieces[layout[slot]])
            parked.pop(layout[slot], None)

    def _is_bare(self, entry: Entry) -> bool:
        """Whether a frame is still wanted, and has no raw master."""
        return entry[0] in self._live and entry[0] not in self.raw

    def _pieces(self, layer: int, entries: Sequence[Entry]) -> dict[Entry, Piece]:
        """Turned keys, and values, of each of these entries."""
        fresh = [entry for entry in dict.fromkeys(entries) if entry[0] in self.raw]
        pieces = {entry: self._parked_or_copy(layer, entry) for entry in entries if entry[0] not in self.raw}
        if not fresh:
            return pieces
        decoded = [self._decoded(frame, layer) for frame, _ in fresh]
        keys = {entry: k for entry, (k, _) in zip(fresh, decoded, strict=True)}
        turning = [entry for entry in fresh if entry[0] not in self.rotated]
        if turning:
            together = torch.cat([keys[entry] for entry in turning], dim=1)
            turned = self._turned(layer, together, [time for _, time in turning])
            keys |= zip(turning, turned.split(self.spec.tokens, dim=1), strict=True)
        return pieces | {entry: (keys[entry], v) for entry, (_, v) in zip(fresh, decoded, strict=True)}

    def _parked_or_copy(self, layer: int, entry: Entry) -> Piece:
        parked = self._parked.get(layer, {})
        return parked[entry] if entry in parked else self._views[layer].copy_of(entry)

    def _context_biases(self) -> list[list[Tensor | None]]:
        """For each layer the bias of the context in each branch that it reads."""
        device = self._device()
        known: dict[Any, list[Tensor | None]] = {}
        biases = []
        for layer, (runs, order) in enumerate(zip(self._runs, self._orders, strict=True)):
            own = layer if any(isinstance(run.tokens, Tensor) for run in runs) else None
            which = id(runs), tuple(order), own
            if which not in known:
                known[which] = [
                    context_bias(runs, order, branch, layer, self.spec, device) for branch in branches_of(runs)
                ]
            biases.append(known[which])
        return biases

    def _device(self) -> torch.device:
        if self._views:
            return next(iter(self._views.values())).keys.device
        return next((tensor.device for tensor in tensors_of(self.raw)), torch.device("cpu"))

    # Inside the network: tensors only, once the first pass has said how large keys are and in which number format. A
    # compiled network breaks here, and so sees the same shapes at every block.
    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        step = self._step
        if step is None:
            raise ValueError("RolloutMemory.begin(step, plan) comes before attend().")
        if step.phase.writes:
            self._staged[layer] = (k, v)
        times = self._now.times
        q, k = self._turned(layer, q, times), self._turned(layer, k, times)
        slots = len(self._layouts[layer])
        if self._differentiable:  # never write into what the backward pass needs
            pieces = self._pieces(layer, self._layouts[layer])
            seen = [(k, v), *(pieces[entry] for entry in self._layouts[layer])]
            keys, values = (torch.cat([x.to(parts[0]) for x in parts], 1) for parts in zip(*seen, strict=True))
        else:
            if layer not in self._views:  # the first pass of all, which reads nothing
                self._views[layer] = self._blank(k, v, len(step.frames))
            view = self._views[layer]
            view.write(k, v)
            keys, values = view.read(k.shape[1], slots)
        own = self._own_bias(bias, len(step.frames), q.device)
        context = self._biases[layer] if self._biases else [None]
        outputs = [
            attention(q, keys, values, joined(own, each, k.shape[1], slots * self.spec.tokens)) for each in context
        ]
        if len(outputs) == 1 or self.combine is None:
            return outputs[0]
        with attribute_errors("combine", self.combine, f"in layer {layer} at block {step.index}"):
            return self.combine(outputs, layer, self.spec, self._now)

    def _own_bias(self, bias: Tensor | None, frames: int, device: torch.device) -> Tensor | None:
        """What is added to the logits among the frames of the pass."""
        plan = self._now.plan
        if plan is None or not plan.causal or self._step is None or frames <= self._step.block:
            return bias
        causal = causal_bias(frames, self._step.block, self.spec.tokens, device)
        return causal if bias is None else bias + causal

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return project()
        if (layer, key) not in self._texts:
            self._texts = {place: kept for place, kept in self._texts.items() if place[1] == key}
            self._texts[layer, key] = project()
        return self._texts[layer, key]

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def carry(self, layer: int, name: str, step: Recurrent) -> Tensor:
        if self._step is None:
            raise ValueError("RolloutMemory.begin(step, plan) comes before carry().")
        return self._states.run(layer, name, step, self._step)

    # After the network.

    def end(self, live: frozenset[int], moves: frozenset[int] | None = None) -> None:
        """Closes a pass. A writing pass enters the store here, whole; frames outside ``live`` are forgotten.

        Of the others only those in ``moves`` (unset: all) stay raw, and those just written, until every layer has
        turned them.
        """
        step = self._step
        if step is None:
            return
        self._live = live
        written: set[int] = set()
        if step.phase.writes:
            self._store(step)
            self._states.store(step, live)
            written = set(step.frames)
            self._invalidate(written)
        if step.phase.writes or moves is not None:
            kept = live if moves is None or self._key is not None else live & (moves | written)
            kept |= {frame for frame in self.raw.keys() & live - kept if not self._turned_everywhere(frame)}
            for frame in self.raw.keys() - kept:
                del self.raw[frame]
            held = {entry[0] for layer in self._attending for entry in self._turned_in(layer)}
            self._invalidate(held - live)
            self.born = {frame: time for frame, time in self.born.items() if frame in live}
            self.rotated &= live
        self._step, self._now, self._staged = None, Now(), {}

    def forget(self, frames: set[int]) -> None:
        self._invalidate(frames)
        for frame in frames:
            self.raw.pop(frame, None)

    def _store(self, step: Step) -> None:
        """What a writing pass has handed over."""
        self._check_layers(step)
        size = self.spec.tokens
        for n, frame in enumerate(step.frames):
            rows = slice(n * size, (n + 1) * size)
            with attribute_errors("KV codec", self.kv_codec, f"encoding frame {frame}"):
                self.raw[frame] = [
                    self.kv_codec.encode(*(x[:, rows] for x in self._staged[layer])) if layer in self._staged else None
                    for layer in range(self.spec.layers)
                ]
            self.born[frame] = int(self._now.times[n])

    def _check_layers(self, step: Step) -> None:
        """Notes which layers have keys. A network without any may read latents, or carry states alone."""
        used = self._staged.keys() | self._states.layers
        missing = set(range(self.spec.layers)) - used
        if used and missing:
            raise UserError(
                f"The backbone left out layer {min(missing)} in a pass that writes (block {step.index}, "
                f"{step.phase.value}); such a pass must call memory.attend in each of its {self.spec.layers} layers."
            )
        self._attending = set(self._staged)

    def state_dict(self) -> State:
        """All that later passes depend on, between two passes.

        Each live frame is there once: as its raw keys and values, from which its slot is filled again, or else as it
        was turned.
        """
        if where := odd(self.raw):
            raise UserError(
                f"{type(self.kv_codec).__name__} keeps keys and values that are neither tensors nor plain data "
                f"({where}); let its encode answer those, or roll without snapshots."
            )
        return {
            "raw": self.raw, "rotated": sorted(self.rotated), "born": self.born,
            "attending": sorted(self._attending), "slots": self._layouts,
            "held": {layer: self._bare(layer) for layer in sorted(self._attending)}, "states": self._states.kept,
        }  # fmt: skip

    def _bare(self, layer: int) -> list[list[Any]]:
        """Frames of a layer without a raw master: frame, time index, turned keys, values."""
        return [
            [*entry, *self._parked_or_copy(layer, entry)] for entry in self._turned_in(layer) if self._is_bare(entry)
        ]

    def lacks(self, plan: ReadPlan, moves: frozenset[int]) -> set[int]:
        unread = {pair[0] for pair in plan.entries() if not self._holds(pair, sorted(self._attending))}
        return unread | {*moves} - self.raw.keys()

    def load_state_dict(self, state: State, device: torch.device) -> None:
        state = moved(_upgraded(state, self.spec.layers), device)
        self.raw, self.rotated, self.born = state["raw"], set(state["rotated"]), state["born"]
        self._attending = set(state["attending"])
        self._layouts = [[(content, time) for content, time in layout] for layout in state["slots"]]
        self._parked = {
            layer: {(content, time): (k, v) for content, time, k, v in pieces}
            for layer, pieces in state["held"].items()
        }
        self._live = frozenset([*self.raw, *(frame for parked in self._parked.values() for frame, _ in parked)])
        self._states.kept = state["states"]

    def _blend(self, virtual: Virtual, layer: int) -> Any:
        """A virtual frame in one layer, as the KV codec keeps it; None where the layer has no keys."""
        if layer not in self._attending:
            return None
        sources = [self._decoded(frame, layer) for frame in virtual.of]
        if virtual.rotated:
            turned = (
                k if frame in self.rotated else self._turned(layer, k, [self.born[frame]])
                for frame, (k, _) in zip(virtual.of, sources, strict=True)
            )
            sources = [(k, v) for k, (_, v) in zip(turned, sources, strict=True)]
        keys, values = blended(virtual, layer, sources)
        with attribute_errors("KV codec", self.kv_codec, f"encoding frame {virtual.frame}"):
            return self.kv_codec.encode(keys, values)

    def _decoded(self, frame: int, layer: int) -> Piece:
        with attribute_errors("KV codec", self.kv_codec, f"decoding frame {frame} for layer {layer}"):
            return self.kv_codec.decode(self.raw[frame][layer])

    def _holds(self, entry: Entry, layers: Sequence[int]) -> bool:
        """Whether a frame can be read at a time index in these layers."""
        return entry[0] in self.raw or all(entry in self._turned_in(layer) for layer in layers)

    def _turned_everywhere(self, frame: int) -> bool:
        """Whether every layer holds the frame turned."""
        return all(any(entry[0] == frame for entry in self._turned_in(layer)) for layer in self._attending)

    def _turned_in(self, layer: int) -> list[Entry]:
        """What a layer holds turned: in its slots, and parked."""
        slots = self._views[layer].slots if layer in self._views else []
        return [*(entry for entry in dict.fromkeys(slots) if entry), *self._parked.get(layer, {})]

    def _invalidate(self, frames: set[int]) -> None:
        """The turned keys of these frames are no longer good."""
        if frames:
            for view in self._views.values():
                view.forget(frames)
            for parked in self._parked.values():
                for entry in [entry for entry in parked if entry[0] in frames]:
                    del parked[entry]

    def _blank(self, k: Tensor, v: Tensor, own: int) -> View:
        return View.blank(k, v, max(own, self.spec.block), self.visible, self.spec.tokens)

    def _turned(self, layer: int, x: Tensor, times: Sequence[float]) -> Tensor:
        """Queries or keys of a layer at the time indices of their frames."""
        which = tuple(times)
        with attribute_errors("positions", self.positions, f"at time indices {min(which)} to {max(which)}"):
            if which not in self._placements:
                now = self._now
                self._placements[which] = placed(self.positions, self.spec, which, x.device, self._step, now.plan)
            return self.positions.turn(x, self._placements[which][layer])


def _upgraded(state: State, layers: int) -> State:
    """A state as version 0.1 saved it, in today's form."""
    if "bare" not in state:
        return state
    slots = state["slots"]
    held = {
        layer: [[*slots[slot], *piece] for slot, piece in zip(state["bare"], pieces, strict=True)]
        for layer, pieces in state["held"].items()
    }
    return {
        "raw": state["raw"], "rotated": [], "born": {}, "attending": list(range(layers)),
        "slots": [slots] * layers, "held": held, "states": {},
    }  # fmt: skip
