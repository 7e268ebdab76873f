"""What a rollout is made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from rollforge.backbones.base import Backbone
from rollforge.memory import Combine, IdentityKVCodec, KVCodec, MakeMemory, Positions, RolloutMemory
from rollforge.noise import IndependentNoise, NoisePrior
from rollforge.policies.base import CachePolicy
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers.base import Sampler


@dataclass
class RolloutComponents:
    """The components of rollouts, which copy those that change from block to block.

    Args:
        backbone: the network.
        policy: what each block sees.
        sampler: how a block is denoised.
        noise: where its noise comes from.
        positions: what turns queries and keys by their time indices. Default: the backbone's.
        kv_codec: how keys and values are kept.
        check: what happens to a block that is not a video; unset, no block is looked at, and none waits for the device.
        memory: what makes the memory of a rollout; called once for each guidance branch.
        combine: what joins the branches of a plan that has several.
        encode: for policies that ask for a ``Reencode``: the latent ``[B, 1, C, H, W]`` of a finished frame's pixels,
            encoded as the first of a video, as a pipeline gives it.
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

    def __post_init__(self) -> None:
        self.positions = self.positions or self.backbone.positions
