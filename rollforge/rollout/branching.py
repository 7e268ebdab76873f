"""The components of a saved rollout, and whether a rollout with other components can resume from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rollforge.errors import UserError, attribute_errors
from rollforge.memory import CachedMemory
from rollforge.policies.base import CachePolicy
from rollforge.renamed import class_path
from rollforge.rollout.components import RolloutComponents
from rollforge.spec import ModelSpec, Step
from rollforge.state import State, Stateful, changes, class_name, odd, same

SHAPES = ("channels", "height", "width", "patch", "layers", "heads", "head_dim", "block")
LABELS = {"backbone": "backbone", "positions": "positions", "kv_codec": "kv_codec", "samples": "number of samples"}
"""What the memories depend on, and what errors call it."""
REPLAY = (
    "start from a state without keys and values (state_dict(kv=False); snapshots.kv: recompute) and the latents "
    "of all earlier blocks"
)


def parts_of(rollout: RolloutComponents, samples: int) -> State:
    """What a rollout of so many samples is made with, as far as its saved memories depend on it."""
    return {
        "policy": described(rollout.policy, "cache policy"),
        "sampler": described(rollout.sampler, "sampler"),
        "backbone": _shapes(rollout.backbone.spec),
        "positions": described(rollout.positions, "positions"),
        "kv_codec": described(rollout.kv_codec, "KV codec"),
        "samples": samples,
    }


def described(part: object, kind: str) -> list[Any]:
    """The class and the state of a part that has not been used yet; the plain attributes of one without state."""
    with attribute_errors(kind, part, "saving its state"):
        return [class_name(part), part.state_dict() if isinstance(part, Stateful) else _plain(vars(part))]


def check_parts(saved: State, now: State) -> None:
    """Raises ``UserError`` where memories were saved with other positions, or another backbone, KV codec or batch."""
    saved = {("positions" if name == "rope" else name): value for name, value in saved.items()}  # as in version 0.1
    for name in LABELS:
        if not same(_known(saved[name]), now[name]):
            raise UserError(
                f"The state was saved with another {LABELS[name]} ({saved[name]}) than this rollout has ({now[name]}); "
                f"take the same, or {REPLAY}."
            )


def carry_over(part: Stateful, built: list[Any], learned: State) -> bool:
    """Gives a part that was just made what another, ``built`` so, has ``learned``. Returns whether they are alike.

    A part of the same class and arguments gets all of it. One with other arguments keeps them, and gets only what has
    changed since the other was made. One of another class starts from its own beginning.
    """
    name, start = built
    own_rules = type(part).load_state_dict is not Stateful.load_state_dict
    alike = name == class_name(part) and same(start, part.state_dict())
    if alike or (name == class_name(part) and own_rules):
        part.load_state_dict(learned)
    elif name == class_name(part):
        part.load_state_dict(changes(part, start, learned))
    return alike


def check_frames(policy: CachePolicy, saved: str, memory: CachedMemory, step: Step) -> None:
    """Raises ``UserError`` where a memory that was saved under another policy lacks frames that this one reads.

    They are those of its next plan, at ``step``, and those that it may move later.
    """
    lacking = memory.lacks(policy.plan(step), policy.moves(step.start, step.block))
    if lacking:
        raise UserError(
            f"The cache policy {type(policy).__name__} reads frame {min(lacking)} at block {step.index} or later, but "
            f"the state does not hold it so: it was saved under {saved.rpartition('.')[2]} of other arguments or "
            "class, which has evicted that frame, or keeps its keys only as rotated for its own plans, as its moves() "
            f"leaves it out. Use that policy; start under one whose moves() returns what its live() does; or {REPLAY}."
        )


def _shapes(spec: ModelSpec) -> State:
    return {name: value for name, value in asdict(spec).items() if name in SHAPES}


def _known(described: Any) -> Any:
    """What is saved of a part, with the name that its class has today."""
    return [class_path(described[0]), *described[1:]] if isinstance(described, list) else described


def _plain(attributes: Mapping[str, Any]) -> State:
    """Those attributes that a state can hold."""
    return {name: value for name, value in attributes.items() if odd(value) is None}
