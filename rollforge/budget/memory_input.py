"""The properties of a rollout that determine its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from rollforge.backbones.base import Backbone, Conditioner, VideoCodec
from rollforge.backbones.wan.placement import chosen_dtype
from rollforge.errors import attribute_errors
from rollforge.finish.base import Finish
from rollforge.memory import KVCodec, Positions
from rollforge.parallel import divide
from rollforge.policies.base import CachePolicy
from rollforge.precision import MIXED, TRUE
from rollforge.rollout.declared import longest_pass
from rollforge.samplers.base import Sampler
from rollforge.spec import ModelSpec, ReadPlan, Step


@dataclass(frozen=True)
class Decoding:
    """How a codec will run: device, dtype and tiles."""

    codec: VideoCodec
    device: str
    dtype: torch.dtype
    tile: int | None = None

    @property
    def weights(self) -> int:
        """Bytes of its weights."""
        return size_of(self.codec, self.dtype)


@dataclass(frozen=True)
class MemoryInput:
    """The properties of one rollout that determine its memory.

    Args:
        spec: the backbone's.
        backbone: the network, perhaps on the meta device.
        decoding: the codec.
        device: of the network, its keys and values.
        weights: dtype of the network's weights; None for the one they have.
        computing: dtype of its keys and values.
        branches: memories that advance together.
        batch: videos that are rolled together.
        policies: those that are rolled, one after the other, by the key that chooses each in a config.
        frames: latent frames of the longest video.
        all_raw: whether raw keys of every live frame are kept, as they are where frequencies change with the step.
        kv_codec: how raw keys and values are kept.
        switches: latent frames from which on other prompts are in force; None where that may come at any block.
        conditioner: what encodes the prompts; None where nothing is known of it.
        prompts: the prompts.
        opening: latent frames of the opening, if there is one.
        joint: frames of the sampler's largest pass; None for a block.
        finish: the stage after the codec, on the network's device.
        processes: that make one video; each keeps a share of its keys and values.
        fused: frames that a pass may commit in addition to its own.
    """

    spec: ModelSpec
    backbone: Backbone
    decoding: Decoding
    device: str
    weights: torch.dtype | None
    computing: torch.dtype
    branches: int
    batch: int
    policies: Mapping[str, CachePolicy]
    frames: int
    all_raw: bool = False
    kv_codec: KVCodec | None = None
    switches: tuple[int, ...] | None = None
    conditioner: Conditioner | None = None
    prompts: tuple[str, ...] = ()
    opening: int = 0
    joint: int | None = None
    finish: Finish | None = None
    processes: int = 1
    fused: int = 0

    @property
    def kept(self) -> ModelSpec:
        """What one process keeps keys and values of."""
        return self.spec if self.processes == 1 else divide(self.spec, self.processes).share(self.spec)

    @property
    def rows(self) -> int:
        """Memories of one video, times videos."""
        return self.branches * self.batch

    @property
    def own_dtype(self) -> torch.dtype:
        """The dtype of the network's weights."""
        own = (weight.dtype for weight in self.backbone.parameters() if weight.is_floating_point())
        return self.weights or next(own, self.computing)


def work_of(
    backbone: Backbone,
    codec: VideoCodec,
    sampler: Sampler,
    policies: Mapping[str, CachePolicy],
    *,
    device: str,
    frames: int,
    batch: int = 1,
    precision: str = "32-true",
    positions: Positions | None = None,
    kv_codec: KVCodec | None = None,
    switches: Sequence[int] | None = None,
    conditioner: Conditioner | None = None,
    prompts: Sequence[str] = (),
    opening: int = 0,
    finish: Finish | None = None,
    processes: int = 1,
    fuse_commit: bool = False,
) -> MemoryInput:
    """The work of components on ``device``. ``precision`` is the Trainer's; see ``MemoryInput`` for the others."""
    own = next((weight.dtype for weight in backbone.parameters() if weight.is_floating_point()), torch.float32)
    full = TRUE.get(precision)
    decoding = Decoding(codec, *_place(codec, device), getattr(codec, "tile", None))
    return MemoryInput(
        backbone.spec, backbone, decoding, device, full, MIXED.get(precision, full or own),
        len(sampler.guidance_branches), batch,
        dict(policies), frames, _moves_all(positions, backbone.spec), kv_codec,
        None if switches is None else tuple(switches), conditioner, tuple(prompts), opening,
        longest_pass(sampler, backbone.spec.block), finish, processes, backbone.spec.block if fuse_commit else 0,
    )  # fmt: skip


def _moves_all(positions: Positions | None, spec: ModelSpec) -> bool:
    """Whether keys are rotated again from time to time, for which all must be kept raw."""
    if positions is None:
        return False
    with attribute_errors("positions", positions, "reporting what they depend on"):
        return positions.key(spec, Step(0, 0, spec.block), ReadPlan((), 0)) is not None


def width_of(spec: ModelSpec) -> int:
    """Channels of a token."""
    return spec.heads * spec.head_dim


def size_of(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of parameters and buffers, floats in ``dtype`` where it is given."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(
        each.numel() * (dtype if dtype and each.is_floating_point() else each.dtype).itemsize for each in tensors
    )


def elsewhere(work: MemoryInput, device: str) -> MemoryInput:
    """The same work with the codec on another device."""
    dtype = decoding_dtype(work.decoding.codec, device)
    return replace(work, decoding=replace(work.decoding, device=device, dtype=dtype))


def decoding_dtype(codec: VideoCodec, device: str) -> torch.dtype:
    """The dtype that a codec works in on a device."""
    chosen = getattr(codec, "number_format", None)
    if chosen is None:
        return next((weight.dtype for weight in codec.parameters()), torch.float32)
    return chosen_dtype(chosen, device)


def _place(codec: VideoCodec, device: str) -> tuple[str, torch.dtype]:
    fixed = getattr(codec, "fixed", None)
    where = device if fixed is None else str(fixed)
    return where, decoding_dtype(codec, where)
