"""What the components of a rollout need of each other, checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rollforge.backbones.base import Backbone
from rollforge.errors import UserError, attribute_errors
from rollforge.memory import IdentityKVCodec, RolloutMemory, Sdpa
from rollforge.memory.observing import OF_BLOCKS
from rollforge.policies.base import CachePolicy
from rollforge.policies.wrapper import PolicyWrapper
from rollforge.prediction import takes_extra
from rollforge.rollout.declared import check_declared, longest_pass
from rollforge.samplers.base import Sampler
from rollforge.spec import Seen

if TYPE_CHECKING:
    from rollforge.rollout.components import RolloutComponents

WORDS = {"q": "queries", "k": "keys", "k_rotated": "rotated keys", "text_k": "keys of the text"}
BATCHING = ("policy", "sampler", "backbone", "noise", "positions", "kv_codec")


def check_abilities(rollout: RolloutComponents) -> None:
    """Raises ``UserError`` where one component needs what another cannot do; it names both."""
    check_declared(rollout)
    policy, sampler, backbone = rollout.policy, rollout.sampler, rollout.backbone
    name, network = type(policy).__name__, type(backbone).__name__
    known = {field.name for field in fields(Seen)}
    if unknown := [*({*policy.sees, *policy.whole} - known)]:
        raise UserError(
            f"The cache policy {name} observes the unknown field {unknown[0]!r}; expected some of {sorted(known)}."
        )
    layers = () if policy.observes == "all" else policy.observes
    if wrong := [layer for layer in layers if not 0 <= layer < backbone.spec.layers]:
        raise UserError(
            f"The cache policy {name} observes layer {wrong[0]}, but the backbone {network} has layers 0 to "
            f"{backbone.spec.layers - 1}."
        )
    with attribute_errors("cache policy", policy, "checking whether it fits"):
        policy.check_sizes(backbone.spec, longest_pass(sampler, backbone.spec.block))
    if policy.observes and not getattr(getattr(rollout.memory, "func", rollout.memory), "observable", False):
        memory = getattr(rollout.memory, "__name__", type(rollout.memory).__name__)
        raise UserError(
            f"The cache policy {name} observes queries and keys, and the memory {memory} does not show them; choose "
            "another policy, or the memory RolloutMemory."
        )
    check_shown(policy, backbone, {*policy.sees} & {*backbone.hides})
    if rollout.group is not None:
        check_divisible(rollout)
    if rollout.fuse_commit:
        check_fusing(rollout)
    with attribute_errors("positions", rollout.positions, "checking whether they fit"):
        rollout.positions.check_spec(backbone.spec)
    if {*policy.sees} - {"latents", "pixels"} and not policy.observes:
        raise UserError(
            f"The cache policy {name} names {', '.join(policy.sees)} in sees, but no layer; name layers in observes."
        )
    if policy.branches > 1 and rollout.combine is None:
        raise UserError(
            f"The plans of the cache policy {name} have {policy.branches} branches, and no part of kind combine is "
            "there to join them; name one in model.combine, such as BlendBranches."
        )
    if (steps := sum(level > 0 for level in sampler.timesteps)) < policy.denoising_steps and sampler.timesteps:
        raise UserError(
            f"The cache policy {name} changes its plans in denoising step {policy.denoising_steps}, and the sampler "
            f"{type(sampler).__name__} has {steps}; give the sampler as many steps, or the policy other ones."
        )
    if (policy.reencodes or "pixels" in policy.sees) and rollout.encode is None:
        raise UserError(
            f"The cache policy {name} needs pixel frames, and this rollout has none; roll it through a Pipeline, or "
            "give Rollout an encode."
        )
    if policy.observes and not sampler.recomputes:
        raise UserError(
            f"The cache policy {name} observes passes, those that commit a block included, and the sampler "
            f"{type(sampler).__name__} runs no commit passes; choose another policy, or a sampler with commit passes."
        )
    if sampler.needs_extra and not takes_extra(backbone):
        raise UserError(
            f"The sampler {type(sampler).__name__} passes extra to the network, which the backbone {network} "
            "does not take; choose another sampler or a backbone whose forward has the argument extra."
        )


def check_divisible(rollout: RolloutComponents) -> None:
    """Raises ``UserError`` where a component needs all heads or all tokens of a frame in one process; it names both."""
    assert rollout.group is not None
    backbone, policy, codec = rollout.backbone, rollout.policy, rollout.kv_codec
    memory: Any = getattr(rollout.memory, "func", rollout.memory)
    kernel = rollout.attention
    plain = type(kernel) is Sdpa and kernel.kernel == "auto"
    observed = policy.observes and {*policy.sees} - {*OF_BLOCKS, "text_k"}
    found = [
        (not backbone.divides_tokens, f"backbone {type(backbone).__name__} does not divide its tokens"),
        (memory is not RolloutMemory, f"memory {getattr(memory, '__name__', memory)} keeps all heads and tokens"),
        (type(codec) is not IdentityKVCodec, f"KV codec {type(codec).__name__} encodes whole frames"),
        (bool(observed), f"cache policy {type(policy).__name__} observes queries and keys"),
        (policy.branches > 1, f"cache policy {type(policy).__name__} has plans with branches"),
        (rollout.group.division.keys > 1 and not plain, f"attention {type(kernel).__name__} does not attend by parts"),
    ]  # fmt: skip
    if why := next((why for applies, why in found if applies), None):
        raise UserError(
            f"The {why}, and model.context_parallel divides heads and tokens among processes; set it to 1, or choose "
            "another component."
        )


def check_fusing(rollout: RolloutComponents) -> None:
    """Raises ``UserError`` where a component must act between the commit of a block and the next block's first pass."""
    policy, backbone, sampler, codec = rollout.policy, rollout.backbone, rollout.sampler, rollout.kv_codec
    name, memory = type(policy).__name__, rollout.memory
    found = [
        (not backbone.divides_tokens, f"backbone {type(backbone).__name__} may join the tokens of different frames"),
        (memory is not RolloutMemory, f"memory {getattr(memory, '__name__', memory)} runs one block in a pass"),
        (type(codec) is not IdentityKVCodec, f"KV codec {type(codec).__name__} encodes a block before others read it"),
        (bool(policy.observes or policy.sees), f"cache policy {name} observes passes or blocks"),
        (_overrides(policy, "virtual"), f"cache policy {name} makes virtual frames"),
        (_overrides(policy, "on_commit"), f"cache policy {name} acts when a block is committed"),
        (sampler.in_flight > 1, f"sampler {type(sampler).__name__} has several blocks in progress"),
        (not sampler.recomputes, f"sampler {type(sampler).__name__} runs no commit passes"),
        (rollout.group is not None, "group of processes of model.context_parallel divides the tokens of a pass"),
        (rollout.check is not None and rollout.check.action == "retry", "block_check may make the next block again"),
    ]
    if why := next((why for applies, why in found if applies), None):
        raise UserError(
            f"The {why}, and model.fuse_commit commits a block in one pass with the next block's first step; set it to "
            "false, or choose another component."
        )


def _overrides(policy: CachePolicy, method: str) -> bool:
    """Whether a policy, or one that it wraps, has a method of its own in place of the default."""
    own = getattr(type(policy), method)
    if isinstance(policy, PolicyWrapper) and own is getattr(PolicyWrapper, method):
        return _overrides(policy.policy, method)
    return own is not getattr(CachePolicy, method)


def check_shown(policy: CachePolicy, backbone: Backbone, hidden: Collection[str]) -> None:
    """Raises ``UserError`` where a backbone does not show what a policy observes."""
    if hidden:
        what, network = WORDS.get(min(hidden), min(hidden)), type(backbone).__name__
        raise UserError(
            f"The cache policy {type(policy).__name__} observes {what}, and the backbone {network} shows none; choose "
            "another cache policy or backbone."
        )


def not_batching(rollout: RolloutComponents) -> str | None:
    """Why videos that are rolled together would not be what they are alone; None where they are."""
    for name in BATCHING:
        part = getattr(rollout, name)
        if not getattr(part, "batches", True):
            return f"With {type(part).__name__} a video may depend on those that are rolled with it"
    if rollout.sampler.in_flight > 1 and rollout.check is not None and rollout.check.action == "retry":
        return f"{type(rollout.sampler).__name__} starts all videos again where a block of one is made again"
    return None


def check_recomputes(policy: CachePolicy, sampler: Sampler) -> None:
    """Raises ``UserError`` where committing the latents again does not restore a policy's state or the memories."""
    if not sampler.recomputes:
        raise UserError(
            f"The sampler {type(sampler).__name__} keeps keys and values of denoising passes, which snapshots with kv: "
            "recompute do not run again; set snapshots.kv to 'save'."
        )
    if not policy.recomputes:
        raise UserError(
            f"The cache policy {type(policy).__name__} learns from passes that snapshots with kv: recompute do not run "
            "again; set snapshots.kv to 'save'."
        )
