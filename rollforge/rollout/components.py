"""The components of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from rollforge.backbones.base import Backbone
from rollforge.memory import Attention, Combine, IdentityKVCodec, KVCodec, MakeMemory, Positions, RolloutMemory, Sdpa
from rollforge.noise import IndependentNoise, NoisePrior
from rollforge.parallel import ContextGroup
from rollforge.policies.base import CachePolicy
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers.base import Sampler


@dataclass
class RolloutComponents:
    """The components of rollouts, which copy those that change from block to block.

    Args:
        backbone: the network.
        policy: which frames each block attends to.
        sampler: how a block is denoised.
        noise: its noise prior.
        positions: how queries and keys are rotated by their time indices. Default: the backbone's.
        kv_codec: how keys and values are cached.
        check: what happens to an invalid block. Unset: blocks are not checked, and do not wait for the device.
        memory: what makes the memory of a rollout; called once for each guidance branch.
        combine: what joins the branches of a plan that has several.
        encode: for policies that request a ``Reencode``: the latent ``[B, 1, C, H, W]`` of a finished frame's pixels,
            encoded as the first of a video, as a pipeline gives it.
        attention: the kernel that memories attend with.
        group: the processes that make the video together, each of which runs this rollout. Default: this one alone.
        fuse_commit: whether a block is committed in one pass with the first step of the next, where nothing happens in
            between. The latents are equal to rounding.
    """

    backbone: Backbone
    policy: CachePolicy
    sampler: Sampler
    noise: NoisePrior = field(default_factory=IndependentNoise)
    positions: Positions = None  # type: ignore[assignment] # which is replaced by the backbone's
    kv_codec: KVCodec = field(default_factory=IdentityKVCodec)
    check: BlockCheck | None = None
    memory: MakeMemory = RolloutMemory
    combine: Combine | None = None
    encode: Callable[[int], Tensor] | None = None
    attention: Attention = field(default_factory=Sdpa)
    group: ContextGroup | None = None
    fuse_commit: bool = False

    def __post_init__(self) -> None:
        self.positions = self.positions or self.backbone.positions
