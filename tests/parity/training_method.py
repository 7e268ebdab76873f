"""A training case by the authors' program: its networks, its draws, and what is compared with its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition, Conditioner
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.wan.network import Wan
from rollforge.objectives import Clips, Objective
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.samplers import Euler, Sampler

TOLERANCE = 1e-5  # largest difference over the largest value of a tensor
SIZES = ("dim", "layers", "heads", "ffn_dim", "freq_dim", "text_dim", "text_len", "eps", "block")
PROMPT, NEGATIVE = "prompt", ""


class Features(Conditioner):
    """The text features of a case."""

    def __init__(self, features: dict[str, Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, prompts: Sequence[str]) -> Condition:
        (prompt,) = set(prompts)
        return Condition(prompt, self.features[prompt])


@dataclass
class Case:
    """One folder.

    Args:
        folder: of ``meta.json`` and the tensors.
        passes: by network, what each of its passes received and returned.
    """

    folder: Path
    passes: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = field(default_factory=dict)

    @cached_property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        return found

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "outputs.safetensors")

    @property
    def captions(self) -> list[str]:
        return [PROMPT] * len(self.inputs["prompt_embeds"])

    def network(self, name: str = "weights") -> Wan:
        """A network of the case, whose passes are recorded."""
        height, width = next(each for each in self.inputs.values() if each.dim() >= 5).shape[-2:]
        frames = self.meta["frames"]
        model = Wan(
            channels=self.meta["latent_channels"], height=height, width=width, window=frames, horizon=frames,
            **{key: (self.meta | self.meta.get(name, {}))[key] for key in SIZES},
        )  # fmt: skip
        assert model.spec.tokens == self.meta["tokens_per_frame"]
        if (file := self.folder / f"{name}.safetensors").exists():
            model.load_state_dict(load_file(file))
        kept = self.passes.setdefault(name, [])
        model.register_forward_hook(lambda _, given, made: kept.append((given[0], given[1], made)))
        return model.float()

    def pipeline(self, backbone: Backbone, sampler: Sampler | None = None) -> Pipeline:
        features = {PROMPT: self.inputs["prompt_embeds"]}
        if "negative_embeds" in self.inputs:
            features[NEGATIVE] = self.inputs["negative_embeds"]
        else:
            features[NEGATIVE] = torch.zeros_like(features[PROMPT])
        return Pipeline(
            backbone=backbone.requires_grad_(True), conditioner=Features(features), policy=Window(),
            codec=PocketCodec(width=16, weights="random"), sampler=sampler or Euler(1),
        )  # fmt: skip

    def losses(self, objective: Objective, pipeline: Pipeline, clips: Clips, index: Tensor) -> dict[str, Tensor]:
        """The losses under the draws of the case, after the backward pass."""
        with drawing(self.inputs.get("noise"), index):
            losses = objective(pipeline, clips)
        losses["loss"].backward()
        return losses

    def check_gradients(self, network: Backbone) -> None:
        """The gradients of named parameters, and the norm over all."""
        found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
        names = [name for name in self.outputs if name.startswith("grad.")]
        assert names
        for name in names:
            assert_agrees(found[name.removeprefix("grad.")], self.outputs[name], name)
        norm = torch.stack([each.double().norm() for each in found.values()]).norm()
        assert_agrees(norm, self.outputs["grad_norm"], "grad_norm")

    def check(self, **found: Tensor) -> None:
        """Tensors against the outputs of the case of that name."""
        for name, value in found.items():
            assert_agrees(value.detach(), self.outputs[name], name)


@contextmanager
def drawing(noise: Tensor | None, index: Tensor) -> Iterator[None]:
    """Replays the draws of a case; anything else that is drawn fails."""

    def integers(high: int, shape: Sequence[int], **options: Any) -> Tensor:
        assert index.max() < high
        assert tuple(index.shape) == tuple(shape)
        return index

    def normal(like: Tensor) -> Tensor:
        assert noise is not None
        assert noise.shape == like.shape
        return noise

    with patch.object(torch, "randint", integers), patch.object(torch, "randn_like", normal):
        yield


def assert_agrees(ours: Tensor, theirs: Tensor, name: str, tolerance: float = TOLERANCE) -> None:
    """The largest difference over the largest value is at most the tolerance."""
    assert ours.numel() == theirs.numel(), name
    apart = (ours.double().reshape(theirs.shape) - theirs).abs().max() / theirs.abs().max()
    assert apart <= tolerance, f"{name} is {apart:.1e} apart"


Check = Callable[[Case], None]
