"""Settings that need less memory, in the words of a config, and those of them that fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations, product
from typing import Any

import torch

from rollforge.backbones.wan.codec import WanVAE
from rollforge.backbones.wan.tiny import FILE, TinyWanDecoder
from rollforge.budget.lines import budget_of
from rollforge.budget.memory_input import MemoryInput, elsewhere
from rollforge.budget.table import readable
from rollforge.policies.base import CachePolicy
from rollforge.policies.wrapper import PolicyWrapper

TILES = (32, 16)  # latent cells
MANY = 32


@dataclass(frozen=True)
class Setting:
    """Keys of a config with their values, and the work under them."""

    text: str
    apply: Callable[[MemoryInput], MemoryInput]


def fitting(work: MemoryInput, free: Mapping[str, int | None]) -> list[str]:
    """Settings under which the work fits; empty where none are enough.

    Kinds are tried in their order, the mildest value first, each with as few of the kinds before it as will do: what
    changes the video comes after what does not.
    """
    groups = [group for group in options(work) if group]
    for n, group in enumerate(groups):
        for last in group:
            for count in range(n + 1):
                for settings in _choices(combinations(groups[:n], count)):
                    if budget_of(_under([*settings, last], work), free).fits:
                        return [setting.text for setting in (*settings, last)]
    return []


def savings(work: MemoryInput) -> list[str]:
    """The mildest setting of each kind that saves memory on the network's device, and how much."""
    before, found = budget_of(work, {}).needed(work.device), []
    for group in filter(None, options(work)):
        saved = before - budget_of(group[0].apply(work), {}).needed(work.device)
        if saved > 0:
            found.append(f"{group[0].text} (saves {readable(saved)} of {work.device})")
    return found


def options(work: MemoryInput) -> list[list[Setting]]:
    """Kinds of settings in the order in which they are tried; those of one kind from mild to drastic."""
    kinds = (
        _encoder_on_cpu, _half_precision, _tiling, _smaller_batch, _tiny_decoder, _codec_on_cpu, _smaller_context,
    )  # fmt: skip
    return [list(kind(work)) for kind in kinds]


def _encoder_on_cpu(work: MemoryInput) -> Iterable[Setting]:
    conditioner, key = work.conditioner, "model.conditioner.init_args"
    if conditioner is None or not (_takes(conditioner, "device") and _takes(conditioner, "dtype")):
        return
    taken = conditioner.encoder_memory(work.prompts, work.device.startswith("cuda"))
    if any(device != "cpu" for device in taken):
        yield Setting(f"{key}.device: cpu", lambda now: replace(now, conditioner=_with(now.conditioner, device="cpu")))
    if taken:
        yield Setting(
            f"{key}.device: cpu and {key}.dtype: bf16",
            lambda now: replace(now, conditioner=_with(now.conditioner, device="cpu", dtype="bf16")),
        )


def _tiny_decoder(work: MemoryInput) -> Iterable[Setting]:
    codec = work.decoding.codec
    if type(codec) is WanVAE and not work.opening:  # it cannot encode
        with torch.device("meta"):
            tiny = TinyWanDecoder(z_dim=codec.latent_channels)
        yield Setting(
            f"model.codec: TinyWanDecoder with its weights {FILE}",
            lambda now: elsewhere(replace(now, decoding=replace(now.decoding, codec=tiny, tile=None)), now.device),
        )


def _codec_on_cpu(work: MemoryInput) -> Iterable[Setting]:
    if work.device != "cpu" and work.decoding.device == work.device and _takes(work.decoding.codec, "device"):
        yield Setting("model.codec.init_args.device: cpu", lambda now: elsewhere(now, "cpu"))


def _half_precision(work: MemoryInput) -> Iterable[Setting]:
    def halved(now: MemoryInput) -> MemoryInput:
        return replace(now, weights=torch.bfloat16, computing=torch.bfloat16)

    if _takes(work.backbone, "dtype") and work.own_dtype.itemsize > torch.bfloat16.itemsize:
        yield Setting("model.backbone.init_args.dtype: bf16", halved)


def _smaller_batch(work: MemoryInput) -> Iterable[Setting]:
    for batch in _below(work.batch):
        yield Setting(f"data.rollout_batch_size: {batch}", lambda now, batch=batch: replace(now, batch=batch))  # type: ignore[misc]


def _smaller_context(work: MemoryInput) -> Iterable[Setting]:
    largest = max((getattr(policy, "context_blocks", 0) for policy in work.policies.values()), default=0)
    for blocks in _below(min(largest, 1 + work.frames // work.spec.block)):
        smaller = {key: with_context(policy, blocks) for key, policy in work.policies.items()}
        changed = [
            change for key, policy in smaller.items() for change in changed_arguments(key, work.policies[key], policy)
        ]
        yield Setting(", ".join(changed), lambda now, smaller=smaller: replace(now, policies=smaller))  # type: ignore[misc]


def _tiling(work: MemoryInput) -> Iterable[Setting]:
    if not _takes(work.decoding.codec, "tile"):
        return
    longest = max(work.spec.height, work.spec.width)
    overlap = getattr(work.decoding.codec, "overlap", 0)
    for tile in TILES:
        if 2 * overlap <= tile < min(longest, work.decoding.tile or longest):
            yield Setting(
                f"model.codec.init_args.tile: {tile}",
                lambda now, tile=tile: replace(now, decoding=replace(now.decoding, tile=tile)),  # type: ignore[misc]
            )


def _below(count: int) -> Iterable[int]:
    """Smaller counts down to 1: by halves while there are many, then one by one."""
    while count > MANY:
        count //= 2
        yield count
    yield from range(count - 1, 0, -1)


def with_context(policy: CachePolicy, blocks: int) -> CachePolicy:
    """A policy that attends to at most ``blocks`` blocks, the last of them recent; itself where it already does."""
    if getattr(policy, "context_blocks", 0) <= blocks:
        return policy
    smaller = copy(policy)
    if isinstance(smaller, PolicyWrapper):
        smaller.policy = with_context(smaller.policy, blocks)
        return smaller
    smaller.context_blocks = blocks  # type: ignore[attr-defined]
    if hasattr(smaller, "sink_blocks"):
        smaller.sink_blocks = min(smaller.sink_blocks, blocks - 1)
    return smaller


def changed_arguments(key: str, policy: Any, other: Any) -> Iterable[str]:
    """The arguments in which two policies differ, as a config names them."""
    for name, value in vars(other).items():
        if isinstance(value, CachePolicy):
            yield from changed_arguments(f"{key}.init_args.{name}", getattr(policy, name), value)
        elif value != getattr(policy, name):
            yield f"{key}.init_args.{name}: {value}"


def _with(part: Any, **changed: Any) -> Any:
    """A component with other values for some of its arguments, which it keeps as attributes."""
    other = copy(part)
    for name, value in changed.items():
        setattr(other, name, value)
    return other


def _choices(kinds: Iterable[Sequence[list[Setting]]]) -> Iterable[tuple[Setting, ...]]:
    """One setting of each kind, in every way."""
    return (settings for chosen in kinds for settings in product(*chosen))


def _under(settings: Sequence[Setting], work: MemoryInput) -> MemoryInput:
    return reduce(lambda now, setting: setting.apply(now), settings, work)


def _takes(part: object, parameter: str) -> bool:
    return parameter in inspect.signature(type(part)).parameters
