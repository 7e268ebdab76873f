"""The hooks of the plugin layer: one for each kind of part, and what a part of that kind must be."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pluggy

GROUP = "rollforge"
BASES = {
    "backbone": "rollforge.backbones.base:Backbone",
    "sampler": "rollforge.samplers.base:Sampler",
    "cache": "rollforge.policies.base:CachePolicy",
    "positions": "rollforge.positions.base:Positions",
    "noise": "rollforge.noise:NoisePrior",
    "memory": "rollforge.memory.cached:CachedMemory",
    "kv_codec": "rollforge.memory.kv_codec:KVCodec",
    "combine": "rollforge.memory.combine:Combine",
    "attention": "rollforge.memory.kernels:Attention",
    "codec": "rollforge.backbones.base:VideoCodec",
    "finish": "rollforge.finish.base:Finish",
    "conditioner": "rollforge.backbones.base:Conditioner",
    "objective": "rollforge.objectives.base:Objective",
    "matching": "rollforge.objectives.matching:Matching",
    "metric": "rollforge.metrics.base:Metric",
    "flow": "rollforge.metrics.flow:Flow",
    "dataset": "torch.utils.data:Dataset",
}
"""The base class of each kind."""
KINDS = {
    "backbone": "a network that predicts the flow of noisy latents",
    "sampler": "a generator of forward passes",
    "cache": "a policy: which committed frames a block sees, and when",
    "positions": "how queries and keys are turned by time indices",
    "noise": "where a block's noise comes from",
    "memory": "what a backbone attends to in a rollout",
    "kv_codec": "how keys and values are kept",
    "combine": "how several reads of one plan become one",
    "attention": "the kernel that memories attend with",
    "codec": "pixels to latents and back, block by block",
    "finish": "a stage after the codec: decoded frames in, frames to show out",
    "conditioner": "prompts to text features",
    "objective": "a training loss",
    "matching": "how a student's videos are moved towards true ones",
    "metric": "a streaming measure of decoded video",
    "flow": "optical flow between two frames, which Motion reads",
    "dataset": "clips to train on",
}
HOOKS = {f"rollforge_register_{kind}": kind for kind in KINDS} | {"rollforge_register_rope": "positions"}
"""The kind that each hook registers; that of version 0.1 for positions works until 0.3."""
Register = Callable[[type | str], None]

hookimpl = pluggy.HookimplMarker(GROUP)
_hookspec = pluggy.HookspecMarker(GROUP)


def _specification(name: str, purpose: str) -> Callable[[Register], None]:
    def hook(register: Register) -> None: ...

    hook.__name__, hook.__doc__ = name, f"Register {purpose}: call register(Class)."
    return hook


hookspecs = SimpleNamespace(**{name: _hookspec(_specification(name, KINDS[kind])) for name, kind in HOOKS.items()})
