"""What a table of parity cases consists of: how rollforge computes the cases of one method.

The cases of a package are named in its ``tests/parity_cases.py``, which ``tests/parity`` finds by itself::

    from parity_method import Method

    METHODS = (Method("reward forcing", lambda meta: RewardForcing(meta["window"], meta["sink"], meta["ema"])),)

Everything comes from the ``meta.json`` of a case, never from the name of its folder, so that the same table serves
other folders of cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rollforge.policies import CachePolicy
from rollforge.rollout import RolloutIterator
from rollforge.samplers import FewStep, Sampler
from rollforge.spec import Event

Meta = Mapping[str, Any]
TOLERANCE = 1e-5  # max abs difference over the whole rollout; of keys and values relative to their largest, if above 1


@dataclass(frozen=True)
class Rolled:
    """A case after its last block.

    Args:
        meta: ``meta.json``.
        outputs: ``outputs.safetensors``.
        run: the rollout, with its own copies of policy and sampler.
        kept: by frame, virtual ones included, the raw keys and values ``[B, tokens, heads, head_dim]`` of each layer
            that it last entered the cache with.
        plans: by block, the plan of its last denoising pass.
    """

    meta: Meta
    outputs: Mapping[str, Tensor]
    run: RolloutIterator
    kept: Mapping[int, Sequence[tuple[Tensor, Tensor]]]
    plans: Mapping[int, Any] = field(default_factory=dict)


def few_step(meta: Meta) -> Sampler:
    """The denoising steps of a case, which are shifted already."""
    first = meta.get("denoising_steps_first_block")
    return FewStep(
        meta["denoising_steps"], shift=1.0, context_noise=meta.get("context_noise", 0), first_timesteps=first
    )


def nothing(meta: Meta) -> Mapping[Any, Any]:
    return {}


@dataclass(frozen=True)
class Method:
    """How the cases of one method are rolled.

    Args:
        says: a regular expression for the beginning of a case's ``policy``, in lower case.
        policy: the cache policy of a case.
        sampler: its sampler.
        options: further arguments of ``Rollout``, such as ``positions``.
        events: events to announce before a block, by its first frame: a type and its fields.
        check: compares what is left in the cache; by default the buffer that the plans describe, where the case has it.
    """

    pattern: str
    policy: Callable[[Meta], CachePolicy]
    sampler: Callable[[Meta], Sampler] = few_step
    options: Callable[[Meta], Mapping[str, Any]] = nothing
    events: Callable[[Meta], Mapping[int, tuple[type[Event], Mapping[str, Any]]]] = nothing
    check: Callable[[Rolled], None] | None = None

    def computes(self, meta: Meta) -> bool:
        """Whether a case is one of this method."""
        return re.match(self.pattern, str(meta["policy"]).lower()) is not None


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference."""
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Keys or values agree."""
    assert difference(ours, theirs) <= TOLERANCE * max(1.0, theirs.abs().max().item())
