"""A cache policy around another one, for what is added to any policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rollforge.policies.base import CachePolicy
from rollforge.spec import Capacity, Event, ModelSpec, ReadPlan, Reencode, Seen, Step, Virtual


class PolicyWrapper(CachePolicy):
    """Delegates to ``policy``. A subclass overrides what it changes; the state of ``policy`` is saved with its own.

    Other attributes, such as ``context_blocks``, are also those of ``policy``.

    Args:
        policy: the policy that is wrapped.
    """

    def __init__(self, policy: CachePolicy) -> None:
        self.policy = policy

    def plan(self, step: Step) -> ReadPlan:
        return self.policy.plan(step)

    def live(self, start: int, block: int) -> frozenset[int]:
        return self.policy.live(start, block)

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.policy.moves(start, block)

    def visible(self, block: int) -> int:
        return self.policy.visible(block)

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        self.policy.check_sizes(spec, longest)

    def capacity(self, block: int) -> Capacity | None:
        return self.policy.capacity(block)

    def virtual(self, step: Step) -> Sequence[Virtual]:
        return self.policy.virtual(step)

    @property
    def branches(self) -> int:  # type: ignore[override] # read only, as the wrapped policy decides
        return self.policy.branches

    @property
    def denoising_steps(self) -> int:  # type: ignore[override]
        return self.policy.denoising_steps

    @property
    def observes(self) -> tuple[int, ...] | Literal["all"]:  # type: ignore[override]
        return self.policy.observes

    @property
    def sees(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.policy.sees

    @property
    def whole(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.policy.whole

    @property
    def reencodes(self) -> bool:  # type: ignore[override]
        return self.policy.reencodes

    @property
    def shifts(self) -> bool:  # type: ignore[override]
        return self.policy.shifts

    @property
    def reencoded_pixel(self) -> int:  # type: ignore[override]
        return self.policy.reencoded_pixel

    @property
    def batches(self) -> bool:
        return self.policy.batches

    @property
    def recomputes(self) -> bool:
        return self.policy.recomputes

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        self.policy.observe(step, layer, seen)

    def on_commit(self, step: Step) -> Sequence[range | Reencode] | None:
        return self.policy.on_commit(step)

    def on_event(self, event: Event) -> Sequence[range | Reencode]:
        return self.policy.on_event(event)

    def __getattr__(self, name: str) -> Any:
        if name == "policy" or name.startswith("__"):  # which a copy asks for before it has any attribute
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.policy, name)
