"""What ``rollforge bench`` times: two small models that come with it, or the model of a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from rollforge.backbones.base import Backbone, Condition, VideoCodec
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.wan.network import Wan
from rollforge.commands.config_parts import parts_of
from rollforge.policies import RollingSink, Window
from rollforge.policies.base import CachePolicy
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, FewStep, Sampler

PROMPT = "a red ball over snow at day"
"""For a config that names a model and no prompt."""


@dataclass
class Model:
    """A network with what it is rolled with.

    ``options`` are further arguments of ``Rollout``, and ``policies`` those that are timed unless others are named.
    """

    name: str
    backbone: Backbone
    codec: VideoCodec | None
    sampler: Sampler
    condition: Condition = field(default_factory=lambda: Condition("bench", torch.zeros(1, 4, 64)))
    negative: Condition | None = None
    policies: Sequence[CachePolicy] = field(default_factory=lambda: [Window(), RollingSink()])
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def frames_of_a_block(self) -> int:
        """Pixel frames of a block that is not the first; latent frames where there is no codec."""
        block = self.backbone.spec.block
        return self.codec.pixel_frames(2 * block) - self.codec.pixel_frames(block) if self.codec else block


def parity_size() -> Model:
    """The network of the parity cases: 2 layers, width 96, 24 tokens a frame."""
    sizes: dict[str, Any] = {
        "dim": 96, "layers": 2, "heads": 3, "ffn_dim": 384, "freq_dim": 64, "text_dim": 64, "text_len": 16
    }  # fmt: skip
    return Model("parity", Wan(height=8, width=12, **sizes), None, FewStep())


def pocket_size() -> Model:
    """Pocket, with its codec."""
    return Model("pocket", Pocket(), PocketCodec(), Euler(steps=8, shift=2.0))


MODELS: dict[str, Callable[[], Model]] = {"parity": parity_size, "pocket": pocket_size}


def named(name: str) -> Model:
    """One of ``MODELS``, with the same random weights every time."""
    torch.manual_seed(0)
    return MODELS[name]()


@torch.no_grad()
def configured(file: str, more: Sequence[str]) -> Model:
    """The model of a config, under its own policy and its first prompt."""
    torch.manual_seed(0)
    with parts_of([file], more) as parts:
        made = {name: parts.build(name) for name in ("backbone", "codec", "sampler", "policy", "conditioner")}
        optional = {each.name for each in fields(Rollout)} - {"backbone", "policy", "sampler", "check"}
        options = {name: parts.build(name) for name in sorted(optional) if name in parts.chosen.model}
        prompts = parts.chosen.data.get("prompts")
        prompt = prompts[0] if isinstance(prompts, list) and prompts and isinstance(prompts[0], str) else PROMPT
        sampler = made["sampler"]
        guided = "negative" in sampler.guidance_branches
        return Model(
            Path(file).stem, made["backbone"], made["codec"], sampler, made["conditioner"]([prompt]),
            made["conditioner"]([""]) if guided else None, [made["policy"]],
            {name: part for name, part in options.items() if part is not None},
        )  # fmt: skip
