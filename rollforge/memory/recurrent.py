"""States of recurrent layers, by the frame that they have reached."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory.base import Recurrent
from rollforge.spec import Step


class RecurrentStates:
    """Keeps the state at the start of every retained block, so that a block can be read again."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, dict[int, Any]]] = {}  # layer -> name -> frames read so far -> state
        self._after: dict[tuple[int, str], Any] = {}  # of the pass in progress

    def run(self, layer: int, name: str, recurrent: Recurrent, step: Step) -> Tensor:
        """One layer of one pass."""
        start, known = step.frames.start, self.kept.get(layer, {}).get(name, {})
        if start and start not in known:
            raise UserError(
                f"The backbone carries the state {name!r} in layer {layer}, and that at frame {start} is not kept "
                f"(block {step.index}, {step.phase.value}); the policy's live() must name the frame."
            )
        output, after = recurrent(known[start] if start else None)
        if step.writes:
            self._after[layer, name] = after
        return output

    def copy(self) -> RecurrentStates:
        """A copy that later passes do not change."""
        other = RecurrentStates()
        other.kept = {layer: {name: dict(known) for name, known in names.items()} for layer, names in self.kept.items()}
        return other

    @property
    def layers(self) -> set[int]:
        """Layers of the pass in progress that have carried a state."""
        return {layer for layer, _ in self._after}

    def store(self, step: Step, live: frozenset[int]) -> None:
        """Ends a pass. What followed its first frame is replaced by the state after its last."""
        start, stop = step.frames.start, step.frames.stop
        for (layer, name), after in self._after.items():
            known = self.kept.setdefault(layer, {}).setdefault(name, {})
            earlier = {
                frame: state for frame, state in known.items() if frame == start or (frame < start and frame in live)
            }
            self.kept[layer][name] = earlier | {stop: after}
        self._after = {}
