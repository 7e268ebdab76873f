"""Memory of a rollout: a store of raw keys and values, read through a plan.

What a pass reads is stored in one static buffer per layer, a slot for each ``(content frame, time index)`` pair of
the plan, before the network runs. ``begin`` fills the slots of all layers and makes a ``Reading`` for each: placements,
rows of the buffer, biases. ``attend`` uses tensors only: it rotates, writes the rows of the pass and attends, so that a
network with this memory compiles as one graph, whose guards do not change from block to block. ``end`` stores.

A pair that stays in the plan keeps its slot; only new pairs are rotated, once, from the raw (unrotated) keys. Slot
order does not matter to attention, so nothing is ever shifted. Raw keys are kept of the frames that a plan may still
move to another index; all others stay as they were first rotated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rollforge.borders import WrongAnswer, shown
from rollforge.errors import UserError, attribute_errors, attributed
from rollforge.memory.base import Now, Projection, Recurrent, TextKeys
from rollforge.memory.bias import branches_of, causal_bias, check_segments, context_bias
from rollforge.memory.combine import Combine
from rollforge.memory.kv_codec import KVCodec
from rollforge.memory.reading import Reading, check_attended, check_layer
from rollforge.memory.slots import Piece, arrange
from rollforge.memory.store import FrameStore
from rollforge.positions import Positions
from rollforge.positions.base import Placement, refusal, turned
from rollforge.ranges import CountFromZero
from rollforge.spec import ModelSpec, ReadPlan, Segment, Step
from rollforge.state import tensors_of

Runs = tuple[Segment, ...]


class RolloutMemory(FrameStore):
    """Cached attention for one rollout (a batch of samples that advance together).

    Args:
        spec: the backbone's.
        visible: upper bound on the context frames of any plan.
        positions: how queries and keys are rotated. Default: ``Rope()``.
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
        self._texts: dict[tuple[int, str], Piece] = {}  # by layer and name, as the network has made them
        self._text: TextKeys = {}  # made before the pass
        self._text_key: str | None = None
        self._key: Any = None
        self._start = -1  # of the pass that the placements were made for
        self._runs: list[Runs] = []
        self._orders: list[list[int]] = []
        self._readings: list[Reading] = []  # of the pass in progress, for each layer
        self._prepared: list[Reading] = []  # of the last pass
        self._repeats = False  # whether the pass in progress reads what the one before has read
        self._closed: Any = None  # the frames that were live, and might move, at the end of the last pass
        self._writes = False

    @property
    def now(self) -> Now:
        return self._now

    @property
    def nbytes(self) -> int:
        kept = [self.raw, self._parked, self._texts, self._text, self._states.kept]
        views = [tensor for view in self._views.values() for tensor in (view.keys, view.values)]
        return sum(tensor.nbytes for tensor in (*views, *tensors_of(kept)))

    # Before the network: all Python.

    def set_text(self, key: str, project: Callable[[], TextKeys]) -> None:
        if key != self._text_key:
            self._text, self._text_key = dict(project()), key

    def begin(self, step: Step, plan: ReadPlan) -> None:
        self._check(step, plan)
        if step.start != self._start:  # the passes of one block share their placements
            self._placements, self._start = {}, step.start
        self._follow_positions(step, plan)
        known = self._known == (now := self._signature(step, plan)) and now is not None
        self._step, self._staged, self._writes, self._repeats = step, {}, step.writes, known
        times = range(plan.query, plan.query + len(step.frames))
        self._now = Now(step.frames, times, step.phase, step.level, plan, self.unread and self._in_parts)
        if not known:
            self._arrange(step, plan)
            if not torch.is_grad_enabled():
                self._fill(len(step.frames))
            self._prepared, self._known = self._read(step, plan), now
        self._readings = self._prepared

    def _signature(self, step: Step, plan: ReadPlan) -> Any:
        """What the readings of a pass depend on while nothing is stored; None where that cannot be compared."""
        if torch.is_grad_enabled() or any(isinstance(run.tokens, Tensor) for run in plan.segments):
            return None
        return plan, step.frames, self._key

    def _arrange(self, step: Step, plan: ReadPlan) -> None:
        """Assigns the plan to the slots of every layer."""
        layered = any(run.layers is not None for run in plan.segments)
        self._runs = [
            tuple(run for run in plan.segments if run.layers is None or layer in run.layers) if layered
            else plan.segments
            for layer in range(self.spec.layers)
        ]  # fmt: skip
        self._check_content(step)
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

    def reading_with(self, others: Sequence[RolloutMemory], layer: int) -> Reading | None:
        """What this memory and others read in a layer of the pass that each has started, as one batch; None where they
        do not read alike, or the policy is to see this branch alone."""
        own, layout, memories = self._readings[layer], self._layouts[layer], (self, *others)
        alike = all(memory._layouts[layer] == layout for memory in others)
        if not self._in_parts or not alike or own.context != [None] or not own.room:
            return None
        if own.keys is None:
            return own
        whole = self.joint and self.joint[0].whole(layer, [memory._views[layer] for memory in memories])
        if not whole:
            return None
        keys, values = whole.read(len(self._now.frames), len(layout))
        return replace(own, keys=keys, values=values)

    @property
    def _in_parts(self) -> bool:
        """Whether layers may be read without ``attend``, as none is shown to a policy, or to a subclass."""
        return self.watch is None and type(self).attend is RolloutMemory.attend

    def _check(self, step: Step, plan: ReadPlan) -> None:
        """Raises ``ValueError`` for a plan that this memory cannot follow, whatever is cached."""
        check_segments(plan, self.spec)
        if why := refusal(self.positions, plan, step):
            raise ValueError(why)
        if self.combine is None and (branch := max((run.branch for run in plan.segments), default=0)):
            raise ValueError(
                f"The plan of block {step.index} has a segment in branch {branch}, and no part of kind combine is "
                "there to join branches; name one in model.combine."
            )

    def _follow_positions(self, step: Step, plan: ReadPlan) -> None:
        """All keys are rotated again where what their placements depend on has changed."""
        with attribute_errors("positions", self.positions, f"at block {step.index}"):
            key = self.positions.key(self._placed_spec, step, plan)
        if isinstance(key, Tensor) or not isinstance(key, Hashable):
            raise WrongAnswer("positions", self.positions, key, "from key", "something that can be compared and hashed")
        if key is not None and key != self._key:
            self._key, self._placements = key, {}
            self._invalidate({frame for frame in self.raw if frame not in self.rotated})

    def _check_content(self, step: Step) -> None:
        """Raises ``ValueError`` for a plan with more frames than were declared, or with frames that are not cached."""
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

    def _read(self, step: Step, plan: ReadPlan) -> list[Reading]:
        """What each layer reads."""
        frames, device = len(step.frames), self._where
        joint = plan.causal and frames > step.block
        own = causal_bias(frames, step.block, self.spec.tokens, device) if joint else None
        placements, biases = self._placed(self._now.times), self._context_biases(device)
        readings = []
        for layer, (placement, context) in enumerate(zip(placements, biases, strict=True)):
            keys, values, room = self._context(layer, frames)
            readings.append(Reading(placement, keys, values, room, own, context, frames * self.spec.tokens))
        return readings

    def _context(self, layer: int, frames: int) -> tuple[Tensor | None, Tensor | None, bool]:
        """Keys and values of the slots of a layer, and whether they have room for those of a pass of ``frames``."""
        layout = self._layouts[layer]
        if not layout or layer not in self._attending:
            return None, None, True
        if torch.is_grad_enabled():  # never write into what the backward pass needs
            return *self._pieces([layer], layout)[0], False
        return *self._views[layer].read(frames, len(layout)), True

    def _context_biases(self, device: torch.device) -> list[list[Tensor | None]]:
        """For each layer the bias of the context in each branch that it reads."""
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

    # Inside the network: tensors only, and nothing that changes from block to block.

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if not self._readings:
            raise ValueError("RolloutMemory.begin(step, plan) comes before attend().")
        check_layer(self.spec, layer)
        check_attended(self.spec, layer, self._readings[layer], q, k, v)
        self.write(layer, k, v)
        if q.device != self._where:
            self._move(q.device)
        reading = self._readings[layer]
        if self.watch is not None:
            self._show(layer, q, k, reading.placement)
        return self.read(layer, reading, q, k, v, bias)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        if self._writes:
            self._staged[layer] = (k.contiguous(), v.contiguous())

    def read(self, layer: int, reading: Reading, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rotates, writes the rows of the pass and attends."""
        q, (keys, values) = self._turn(q, reading.placement), reading.together(self._turn(k, reading.placement), v)
        biases = reading.biases(bias, k.shape[1], keys.shape[1])
        outputs = [self._attention(layer, q, keys, values, each) for each in biases]
        return outputs[0] if len(outputs) == 1 or self.combine is None else self._combined(outputs, layer)

    def attention(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Attention of one layer and branch to the tokens of the pass, which come first, and to the slots.

        ``bias`` is added to the logits; it is broadcast to ``[B, heads, L, S]``.
        """
        return self.kernel(q, keys, values, bias)

    def _attention(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        try:
            made = self.attention(layer, q, keys, values, bias)
        except Exception as error:
            if (named := attributed(error, "attention", self.kernel, "in memory.attend")) is error:
                raise
            raise named from error
        if not isinstance(made, Tensor) or made.shape != q.shape or made.device != q.device:
            raise WrongAnswer("attention", self.kernel, made, f"in layer {layer}", f"{shown(q)} on {q.device}")
        known = made.is_meta or made.dtype in (q.dtype, values.dtype)  # shapes have any number format
        if not known and not torch.is_autocast_enabled(q.device.type):
            raise WrongAnswer("attention", self.kernel, made, f"in layer {layer}", str(q.dtype)[6:])
        return made

    def _turn(self, x: Tensor, placement: Placement) -> Tensor:
        try:
            return turned(self.positions, x, placement)
        except Exception as error:
            if (named := attributed(error, "positions", self.positions, "in memory.attend")) is error:
                raise
            raise named from error

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def _move(self, device: torch.device) -> None:
        """Moves to the device of the network in the first pass, if none was given. Nothing is cached yet."""
        assert self._step is not None
        assert self._now.plan is not None
        self.device, self._placements = device, {}
        self._readings = self._prepared = self._read(self._step, self._now.plan)

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def _show(self, layer: int, q: Tensor, k: Tensor, placement: Placement) -> None:
        """Passes on what the policy observes."""
        if self.watch is not None:
            self.watch.attended(layer, q, k, lambda x: self._turn(x, placement))

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def _combined(self, outputs: list[Tensor], layer: int) -> Tensor:
        assert self.combine is not None
        when = f"in layer {layer} at block {self._step.index if self._step else 0}"
        with attribute_errors("combine", self.combine, when):
            made = self.combine(outputs, layer, self.spec, self._now)
        first = outputs[0]
        if not isinstance(made, Tensor) or made.shape != first.shape or made.dtype != first.dtype:
            raise WrongAnswer("combine", self.combine, made, when, shown(first))
        return made

    def text(self, layer: int) -> tuple[Tensor, Tensor] | None:
        if (kept := self._text.get(layer)) is not None and self.watch is not None:
            self._show_text(layer, kept[0])
        return kept

    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return project()
        if (layer, key) not in self._texts:
            self._texts = {place: kept for place, kept in self._texts.items() if place[1] == key}
            self._texts[layer, key] = project()
        if self.watch is not None:
            self._show_text(layer, self._texts[layer, key][0])
        return self._texts[layer, key]

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def _show_text(self, layer: int, k: Tensor) -> None:
        if self.watch is not None:
            self.watch.text(layer, k)

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def carry(self, layer: int, name: str, step: Recurrent) -> Tensor:
        if self._step is None:
            raise ValueError("RolloutMemory.begin(step, plan) comes before carry().")
        return self._states.run(layer, name, step, self._step)

    # After the network.

    def end(self, live: frozenset[int], moves: frozenset[int] | None = None) -> None:
        """Closes a pass. A writing pass enters the store here, complete; frames outside ``live`` are evicted.

        Of the others only those in ``moves`` (unset: all) stay raw, and those just written, until every layer has
        turned them.
        """
        step = self._step
        self._live = live
        written: set[int] = set()
        if step is not None and step.writes:
            self._store(step)
            self._states.store(step, live)
            written = set(step.frames)
            self._invalidate(written)
        repeated, self._closed = self._repeats and self._closed == (live, moves), (live, moves)
        if written or (moves is not None and not (repeated and step)):
            kept = live if moves is None or self._key is not None else live & (moves | written)
            kept |= {frame for frame in self.raw.keys() & live - kept if not self._turned_everywhere(frame)}
            for frame in self.raw.keys() - kept:
                del self.raw[frame]
            held = {entry[0] for layer in self._attending for entry in self._turned_in(layer)}
            self._invalidate(held - live)
            self.born = {frame: time for frame, time in self.born.items() if frame in live}
            self.rotated &= live
            self.places = {frame: places for frame, places in self.places.items() if frame in live}
        self._step, self._now, self._staged, self._readings = None, Now(), {}, []

    def _store(self, step: Step) -> None:
        """Stores what a writing pass has computed."""
        self._known = None
        self._check_layers(step)
        size, parts = self.spec.tokens, [*zip(*self._staged.values(), strict=True)] or [(), ()]
        for n, frame in enumerate(step.frames):
            rows = slice(n * size, (n + 1) * size)
            with attribute_errors("KV codec", self.kv_codec, f"encoding frame {frame}"):
                encoded = map(self.kv_codec.encode, *(owned([x[:, rows] for x in each]) for each in parts))
                kept = dict(zip(self._staged, encoded, strict=True))
                self.raw[frame] = [kept.get(layer) for layer in range(self.spec.layers)]
            self.born[frame] = int(self._now.times[n])
        for layer in self._staged.keys() - self._blanks.keys():
            k, v = self._staged[layer]
            self._blanks[layer] = k[:, :0].clone(), v[:, :0].clone()

    def _check_layers(self, step: Step) -> None:
        """Records which layers have keys. A network without any may read latents, or carry states alone."""
        used = self._staged.keys() | self._states.layers
        missing = set(range(self.spec.layers)) - used
        if used and missing:
            raise UserError(
                f"The backbone left out layer {min(missing)} in a pass that writes (block {step.index}, "
                f"{step.phase.value}); such a pass must call memory.attend in each of its {self.spec.layers} layers."
            )
        self._attending = set(self._staged)


def owned(rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """Copies of a frame's rows in each layer, which lie in one tensor where their shapes are equal."""
    if len({(x.shape, x.dtype) for x in rows}) == 1:
        return torch.stack([*rows]).unbind()
    return [x.clone() for x in rows]
