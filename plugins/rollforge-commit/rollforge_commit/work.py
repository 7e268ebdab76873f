"""How much a block costs: multiplications and additions of the network, counted from plans and sizes.

A commit pass ends with the keys and values of the last layer, since nothing reads what comes after them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from rollforge.backbones.base import Backbone
from rollforge.policies import CachePolicy
from rollforge.samplers import Sampler
from rollforge.spec import Phase, Step


@dataclass(frozen=True)
class Work:
    """Floating-point operations of the passes of one block.

    Args:
        attention: of self-attention, the scores and the weighted sums.
        other: of all linear layers, and of attention to the text.
    """

    attention: float
    other: float

    @property
    def whole(self) -> float:
        """All of them."""
        return self.attention + self.other


def work_of_block(backbone: Backbone, policy: CachePolicy, sampler: Sampler, index: int = 1000) -> Work:
    """Counts the denoising passes of block number ``index`` and its commit pass, if the sampler has one.

    Args:
        backbone: a network of the Wan family; its weights are only counted, and may be on the meta device.
        policy: what each pass reads. Its plans are taken as they are at rest.
        sampler: one with a pass for each of its timesteps, such as ``FewStep``, in each guidance branch.
        index: the block, by default one far behind the first full window.
    """
    spec, step = backbone.spec, Step.of(index, backbone.spec.block)
    commits = getattr(sampler, "how", "clean") == "clean"
    phases = [Phase.DENOISE] * len(sampler.timesteps) + [Phase.COMMIT] * commits
    tokens, width = spec.block * spec.tokens, spec.heads * spec.head_dim
    attention = other = 0.0
    for phase in phases:
        left_out = phase is Phase.COMMIT
        seen = (len(policy.plan(replace(step, phase=phase)).entries()) + spec.block) * spec.tokens
        attention += 4 * tokens * seen * width * (spec.layers - left_out)
        other += 4 * tokens * getattr(backbone, "text_len", 0) * width * (spec.layers - left_out)
        other += 2 * tokens * (_weights(backbone) - left_out * _weights_left_out(backbone))
    branches = len(sampler.guidance_branches)
    return Work(branches * attention, branches * other)


def _weights(backbone: Backbone, within: str = "blocks.") -> int:
    """Weights of the linear layers that every token goes through: those of the blocks, without the text's keys."""
    return sum(
        layer.weight.numel()
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear)
        and name.startswith(within)
        and not name.endswith(("cross_attn.k", "cross_attn.v"))
    )


def _weights_left_out(backbone: Backbone) -> int:
    """Those of the last layer behind its keys and values."""
    last = f"blocks.{backbone.spec.layers - 1}."
    return _weights(backbone, last) - sum(_weights(backbone, f"{last}self_attn.{name}") for name in ("q", "k", "v"))
