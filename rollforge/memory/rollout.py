"""Memory of a rollout: a store of raw keys and values, read through a plan.

What a pass reads is laid out in one static buffer per layer, a slot for each ``(content frame, time index)`` pair of
the plan, before the network runs: ``begin`` fills the slots of all layers, ``attend`` only computes, ``end`` stores. A
pair that stays in the plan keeps its slot; only new pairs are turned, from the raw (unrotated) master, once. Slot order
does not matter to attention, so nothing is ever shifted. Raw masters are kept of the frames that a plan may still move
to another index; all others live on as they were first turned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError, attribute_errors
from rollforge.memory.attention import attention
from rollforge.memory.base import Now, Projection, Recurrent
from rollforge.memory.bias import branches_of, causal_bias, check_segments, context_bias, joined
from rollforge.memory.combine import Combine
from rollforge.memory.kv_codec import KVCodec
from rollforge.memory.slots import Piece, arrange
from rollforge.memory.store import FrameStore
from rollforge.positions import Positions
from rollforge.positions.base import refusal
from rollforge.ranges import CountFromZero
from rollforge.spec import ModelSpec, ReadPlan, Segment, Step
from rollforge.state import tensors_of

Runs = tuple[Segment, ...]


class RolloutMemory(FrameStore):
    """Cached attention for one rollout (a batch of samples that advance together).

    Args:
        spec: the backbone's.
        visible: upper bound on the context frames of any plan.
        positions: what turns queries and keys. Default: ``Rope()``.
        kv_codec: how raw keys and values are kept. Default: as they are.
        combine: what joins the branches of a plan.
    """

    observable = True

    def __init__(
        self,
        spec: ModelSpec,
        visible: CountFromZero,
        positions: Positions | None = None,
        kv_codec: KVCodec | None = None,
        combine: Combine | None = None,
    ) -> None:
        super().__init__(spec, visible, positions, kv_codec, combine)
        self._staged: dict[int, Piece] = {}
        self._texts: dict[tuple[int, str], Piece] = {}
        self._key: Any = None
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
        if self.watch is not None:
            self.watch.attended(layer, q, k, lambda x: self._turned(layer, x, times))
        q, turned = self._turned(layer, q, times), self._turned(layer, k, times)
        slots = len(self._layouts[layer])
        if self._differentiable:  # never write into what the backward pass needs
            pieces = self._pieces(layer, self._layouts[layer])
            seen = [(turned, v), *(pieces[entry] for entry in self._layouts[layer])]
            keys, values = (torch.cat([x.to(parts[0]) for x in parts], 1) for parts in zip(*seen, strict=True))
        else:
            if layer not in self._views:  # the first pass of all, which reads nothing
                self._views[layer] = self._blank(turned, v, len(step.frames))
            view = self._views[layer]
            view.write(turned, v)
            keys, values = view.read(k.shape[1], slots)
        own = self._own_bias(bias, len(step.frames), q.device)
        context = self._biases[layer] if self._biases else [None]
        outputs = [
            self.attention(layer, q, keys, values, joined(own, each, k.shape[1], slots * self.spec.tokens))
            for each in context
        ]
        if len(outputs) == 1 or self.combine is None:
            return outputs[0]
        with attribute_errors("combine", self.combine, f"in layer {layer} at block {step.index}"):
            return self.combine(outputs, layer, self.spec, self._now)

    def attention(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Attention of one layer and branch to the tokens of the pass, which come first, and of the slots.

        ``bias`` is added to the logits; it is broadcast to ``[B, heads, L, S]``.
        """
        return attention(q, keys, values, bias)

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
        if self.watch is not None:
            self.watch.text(layer, self._cross(layer, key, project)[0])
        return self._cross(layer, key, project)

    def _cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
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
            self.places = {frame: places for frame, places in self.places.items() if frame in live}
        self._step, self._now, self._staged = None, Now(), {}

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
