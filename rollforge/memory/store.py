"""What a rollout's memory keeps: raw keys and values of frames, and rotated ones in slots and next to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rollforge.borders import WrongAnswer, check_tensor
from rollforge.errors import UserError, attribute_errors
from rollforge.memory.base import Now
from rollforge.memory.cached import CachedMemory
from rollforge.memory.combine import Combine
from rollforge.memory.kv_codec import IdentityKVCodec, KVCodec
from rollforge.memory.recurrent import RecurrentStates
from rollforge.memory.slots import Changes, Entry, JointBuffers, Piece, View
from rollforge.memory.virtual import blended, places_of
from rollforge.positions import Positions, Rope
from rollforge.positions.base import Placement, placed, turned
from rollforge.ranges import CountFromZero
from rollforge.spec import ModelSpec, ReadPlan, Step, Virtual
from rollforge.state import State, moved, odd

MOST_AT_ONCE = 2**24
"""Keys that are rotated at once at most, in numbers."""


class FrameStore(CachedMemory):
    """The frames of a memory, without passes. Arguments as in ``RolloutMemory``."""

    joint: tuple[JointBuffers, int] | None = None
    """What makes its buffers, and which part of them is its own, where guidance branches run as one batch."""

    def __init__(
        self,
        spec: ModelSpec,
        visible: CountFromZero,
        positions: Positions | None = None,
        kv_codec: KVCodec | None = None,
        combine: Combine | None = None,
    ) -> None:
        self.spec, self.visible, self.combine = spec, visible, combine
        self.positions, self.kv_codec = positions or Rope(), kv_codec or IdentityKVCodec()
        self.raw: dict[int, list[Any]] = {}  # frame -> what the KV codec keeps, layer by layer; virtual ones as made
        self.rotated: set[int] = set()  # virtual frames whose keys keep the rotation that they were made with
        self.places: dict[int, dict[int, Tensor]] = {}  # virtual frames of single tokens -> layer -> their places
        self.born: dict[int, int] = {}  # frame -> the time index at which it was written
        self._layouts: list[list[Entry]] = [[] for _ in range(spec.layers)]  # what the slots hold during a pass
        self._views: dict[int, View] = {}
        self._parked: dict[int, dict[Entry, Piece]] = {}  # turned, and for now in no slot; there is no raw master
        self._attending = set(range(spec.layers))  # layers that have keys; the others only carry states
        self._states = RecurrentStates()
        self._placements: dict[tuple[float, ...], list[Placement]] = {}
        self._blanks: dict[
            int, Piece
        ] = {}  # layer -> keys and values of no tokens, in shape and dtype as first written
        self._step: Step | None = None
        self._now = Now()
        self._live: frozenset[int] = frozenset()
        self.part: list[int] = []  # where processes divide heads and tokens: by how many, and the number of this one
        self._known: Any = None  # what the last pass read; None once that has changed

    def make(self, block: int, virtual: Sequence[Virtual]) -> None:
        fresh: dict[int, list[Any]] = {}
        places: dict[int, dict[int, Tensor]] = {}
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
            made = [self._blend(each, layer) for layer in range(self.spec.layers)]
            fresh |= {frame: list(row) for frame, row in zip(each.frames, zip(*made, strict=True), strict=True)}
            if each.tokens is not None and not each.rotated:
                known = [self.places.get(frame, {}) for frame in each.of]
                places[each.frame] = {
                    layer: places_of(each, layer, [at.get(layer) for at in known]) for layer in self._attending
                }
        self.rotated = (self.rotated - fresh.keys()) | {n for each in virtual if each.rotated for n in each.frames}
        self.places = {frame: known for frame, known in self.places.items() if frame not in fresh} | places
        self.raw |= fresh
        self._invalidate(set(fresh))

    def forget(self, frames: set[int]) -> None:
        self._invalidate(frames)
        for frame in frames:
            self.raw.pop(frame, None)
            self.places.pop(frame, None)

    def state_dict(self) -> State:
        """All that later passes depend on, between two passes.

        Each live frame is there once: as its raw keys and values, from which its slot is filled again, or else as it
        was rotated.
        """
        if where := odd(self.raw):
            raise UserError(
                f"{type(self.kv_codec).__name__} keeps keys and values that are neither tensors nor plain data "
                f"({where}); let its encode return those, or generate without snapshots."
            )
        return {
            "raw": self.raw, "rotated": sorted(self.rotated), "places": self.places, "born": self.born,
            "attending": sorted(self._attending), "slots": self._layouts,
            "held": {layer: self._bare(layer) for layer in sorted(self._attending)}, "states": self._states.kept,
            "blanks": self._blanks, **({"part": self.part} if self.part else {}),
        }  # fmt: skip

    def load_state_dict(self, state: State, device: torch.device) -> None:
        if (part := [*state.get("part", ())]) != self.part:
            raise UserError(
                f"The state has keys and values of another share of the heads and tokens ({part or 'all'}) than this "
                f"process keeps ({self.part or 'all'}); resume with as many processes as it was saved with, or from "
                "a state without keys and values."
            )
        state = moved(_upgraded(state, self.spec.layers), device)
        self.raw, self.rotated, self.born = state["raw"], set(state["rotated"]), state["born"]
        self.places = state.get("places", {})
        self._attending = set(state["attending"])
        self._layouts = [[(content, time) for content, time in layout] for layout in state["slots"]]
        self._parked = {
            layer: {(content, time): (k, v) for content, time, k, v in pieces}
            for layer, pieces in state["held"].items()
        }
        self._live = frozenset([*self.raw, *(frame for parked in self._parked.values() for frame, _ in parked)])
        self._states.kept, self._blanks = state["states"], state.get("blanks", {})
        self.device = device

    def lacks(self, plan: ReadPlan, moves: frozenset[int]) -> set[int]:
        unread = {pair[0] for pair in plan.entries() if not self._holds(pair, sorted(self._attending))}
        return unread | {*moves} - self.raw.keys()

    def _blend(self, virtual: Virtual, layer: int) -> list[Any]:
        """The frames that are made, in one layer, kept as they are; None where the layer has no keys."""
        if layer not in self._attending:
            return [None] * len(virtual.frames)
        sources = [self._decoded(frame, layer) for frame in virtual.of]
        if virtual.rotated:
            turned = (
                k if frame in self.rotated else self._turned(layer, k, [self.born[frame]])
                for frame, (k, _) in zip(virtual.of, sources, strict=True)
            )
            sources = [(k, v) for k, (_, v) in zip(turned, sources, strict=True)]
        return [(keys.clone(), values.clone()) for keys, values in blended(virtual, layer, sources)]

    def _fill(self, own: int) -> None:
        """Puts the plan into the slots of all layers: only those whose entry has changed are rotated and copied."""
        for layer in sorted(self._attending):
            view = self._views.get(layer)
            if view is not None and own > view.own:
                self._views[layer] = self._blank(layer, view.keys, view.values, own).take(view)
        for changes, layers in self._changes().items():
            for some in self._at_once(layers, len(changes.entries)):
                for layer, piece in zip(some, self._pieces(some, changes.entries), strict=True):
                    self._put(layer, changes, piece, own)

    def _changes(self) -> dict[Changes, list[int]]:
        """The slots whose entry has changed, with the layers in which the same slots get the same frames."""
        groups: dict[Changes, list[int]] = {}
        for layer in sorted(self._attending):
            layout, view = self._layouts[layer], self._views.get(layer)
            held: Sequence[Entry | None] = view.slots if view else [None] * len(layout)
            if slots := tuple(slot for slot, entry in enumerate(layout) if entry != held[slot]):
                groups.setdefault(Changes(slots, tuple(layout[slot] for slot in slots)), []).append(layer)
        return groups

    def _put(self, layer: int, changes: Changes, piece: Piece, own: int) -> None:
        """Puts frames into slots of one layer."""
        if (view := self._views.get(layer)) is None:
            like = self._blanks.get(layer) or piece
            view = self._views[layer] = self._blank(layer, *like, max(own, self.spec.block))
        self._park(layer, changes.slots)
        view.fill(changes.slots, piece)
        self._mark(layer, changes)

    def _park(self, layer: int, slots: Sequence[int]) -> None:
        """Keeps what slots hold next to them, if it is still wanted."""
        view = self._views[layer]
        leaving = {entry for slot in slots if (entry := view.slots[slot]) and self._is_bare(entry)}
        parked = self._parked.setdefault(layer, {})
        parked |= {entry: view.copy_of(entry) for entry in leaving - set(self._layouts[layer])}

    def _mark(self, layer: int, changes: Changes) -> None:
        """Notes what slots hold now."""
        slots, parked = self._views[layer].slots, self._parked.setdefault(layer, {})
        for slot, entry in zip(changes.slots, changes.entries, strict=True):
            slots[slot] = entry
            parked.pop(entry, None)

    def _blank(self, layer: int, k: Tensor, v: Tensor, own: int) -> View:
        """An empty buffer for passes of ``own`` frames."""
        sizes = k, v, own, self.visible, self.spec.tokens
        return self.joint[0].blank(self.joint[1], layer, *sizes) if self.joint else View.blank(*sizes)

    def _at_once(self, layers: Sequence[int], count: int) -> list[Sequence[int]]:
        """Groups of layers whose keys of ``count`` frames can be rotated together, and take little memory."""
        sizes = {self.spec.kv_shape(layer) for layer in layers}
        heads, channels = max(sizes)
        most = MOST_AT_ONCE // (count * self.spec.tokens * heads * channels)
        size = most if len(sizes) == 1 and most > 1 else 1
        return [layers[n : n + size] for n in range(0, len(layers), size)]

    def _is_bare(self, entry: Entry) -> bool:
        """Whether a frame is still cached without raw keys."""
        return entry[0] in self._live and entry[0] not in self.raw

    def _pieces(self, layers: Sequence[int], entries: Sequence[Entry]) -> list[Piece]:
        """For each layer rotated keys, and values, of these entries, one after another."""
        placements = self._placed([time for _, time in entries])
        simple = all(
            frame in self.raw and frame not in self.rotated and frame not in self.places for frame, _ in entries
        )
        if not simple or any(placements[layer] is not placements[layers[0]] for layer in layers):
            return [self._piece(layer, entries) for layer in layers]
        decoded = [self._decoded(frame, layer) for layer in layers for frame, _ in entries]
        keys, values = (torch.cat(each, 1).unflatten(1, (len(layers), -1)) for each in zip(*decoded, strict=True))
        times = [time for _, time in entries]
        turned = self._turned(layers[0], keys.flatten(0, 1), times).unflatten(0, keys.shape[:2])
        return list(zip(turned.unbind(1), values.unbind(1), strict=True))

    def _piece(self, layer: int, entries: Sequence[Entry]) -> Piece:
        """The same for one layer, whatever the frames are."""
        fresh = [entry for entry in dict.fromkeys(entries) if entry[0] in self.raw]
        pieces = {entry: self._parked_or_copy(layer, entry) for entry in entries if entry[0] not in self.raw}
        decoded = [self._decoded(frame, layer) for frame, _ in fresh]
        keys = {entry: k for entry, (k, _) in zip(fresh, decoded, strict=True)}
        for frame, time in (entry for entry in fresh if entry[0] in self.places):
            keys[frame, time] = self._turned(layer, keys[frame, time], [time], self.places[frame][layer])
        turning = [entry for entry in fresh if entry[0] not in self.rotated and entry[0] not in self.places]
        if turning:
            together = torch.cat([keys[entry] for entry in turning], dim=1)
            turned = self._turned(layer, together, [time for _, time in turning])
            keys |= zip(turning, turned.split(self.spec.tokens, dim=1), strict=True)
        pieces |= {entry: (keys[entry], v) for entry, (_, v) in zip(fresh, decoded, strict=True)}
        k, v = (torch.cat(each, 1) for each in zip(*(pieces[entry] for entry in entries), strict=True))
        return k, v

    def _parked_or_copy(self, layer: int, entry: Entry) -> Piece:
        parked = self._parked.get(layer, {})
        return parked[entry] if entry in parked else self._views[layer].copy_of(entry)

    def _decoded(self, frame: int, layer: int) -> Piece:
        if frame < 0:  # a slow average of rounded values would stand still, so virtual frames are not encoded
            keys, values = self.raw[frame][layer]
            return keys, values
        with attribute_errors("KV codec", self.kv_codec, f"decoding frame {frame} for layer {layer}"):
            pair = self.kv_codec.decode(self.raw[frame][layer])
        return pair if type(self.kv_codec) is IdentityKVCodec else self._checked(pair, frame, layer)

    def _checked(self, pair: Any, frame: int, layer: int) -> Piece:
        """What a KV codec has restored, if it is like what it was given."""
        when, like = f"for frame {frame} in layer {layer}", self._blanks.get(layer)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise WrongAnswer("KV codec", self.kv_codec, pair, when, "keys and values")
        for each, blank in zip(pair, like or pair, strict=True):
            heads = tuple(blank.shape[2:]) if isinstance(blank, Tensor) else (None, None)
            restored = check_tensor(
                "KV codec", self.kv_codec, each, when, (None, self.spec.tokens, *heads), self._where
            )
            if restored.dtype != blank.dtype:
                raise WrongAnswer("KV codec", self.kv_codec, each, when, f"{str(blank.dtype)[6:]}")
        return pair[0], pair[1]

    def _turned(self, layer: int, x: Tensor, times: Sequence[float], places: Tensor | None = None) -> Tensor:
        """Queries or keys of a layer at the time indices of their frames, or ``places [B, n]`` of these."""
        placement = self._placed(times)[layer]
        with attribute_errors("positions", self.positions, f"at time indices {min(times)} to {max(times)}"):
            return turned(self.positions, x, placement if places is None else self.positions.rows(placement, places))

    @property
    def _where(self) -> torch.device:
        return self.device or torch.device("cpu")

    def _placed(self, times: Sequence[float]) -> list[Placement]:
        """The placements of frames at these time indices, one for each layer."""
        which = tuple(times)
        if which not in self._placements:
            with attribute_errors("positions", self.positions, f"at time indices {min(which)} to {max(which)}"):
                self._placements[which] = self._place(which)
        return self._placements[which]

    def _place(self, times: Sequence[float]) -> list[Placement]:
        return placed(self.positions, self._placed_spec, times, self._where, self._step, self._now.plan)

    @property
    def _placed_spec(self) -> ModelSpec:
        """The spec of the frames that positions place."""
        return self.spec

    def _holds(self, entry: Entry, layers: Sequence[int]) -> bool:
        """Whether a frame can be read at a time index in these layers."""
        return entry[0] in self.raw or all(entry in self._turned_in(layer) for layer in layers)

    def _turned_everywhere(self, frame: int) -> bool:
        """Whether every layer has rotated keys of the frame."""
        return all(any(entry[0] == frame for entry in self._turned_in(layer)) for layer in self._attending)

    def _turned_in(self, layer: int) -> list[Entry]:
        """Rotated keys of a layer: in its slots, and next to them."""
        slots = self._views[layer].slots if layer in self._views else []
        return [*(entry for entry in dict.fromkeys(slots) if entry), *self._parked.get(layer, {})]

    def _invalidate(self, frames: set[int]) -> None:
        """Marks the rotated keys of these frames as outdated."""
        if frames:
            self._known = None
            for view in self._views.values():
                view.forget(frames)
            for parked in self._parked.values():
                for entry in [entry for entry in parked if entry[0] in frames]:
                    del parked[entry]

    def _bare(self, layer: int) -> list[list[Any]]:
        """Frames of a layer without raw keys: frame, time index, rotated keys, values."""
        return [
            [*entry, *self._parked_or_copy(layer, entry)] for entry in self._turned_in(layer) if self._is_bare(entry)
        ]


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
