"""What a training step and the optimizer hold, found by running their shapes on the meta device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rollforge.backbones.base import Condition, VideoCodec
from rollforge.backbones.low_rank import set_trained, trainable
from rollforge.budget.live import Live, tensors_in, without_numbers
from rollforge.budget.structure import once_per_structure
from rollforge.objectives.base import Clips, Objective
from rollforge.pipeline.components import Components
from rollforge.training_budget.kernels import Kernels

log = logging.getLogger(__name__)

SMALL = (64, 64)
"""Shape of the parameter whose state stands for all where an optimizer needs values."""


@dataclass(frozen=True)
class Update:
    """Bytes of an optimizer: its state, and what a step takes in addition for a moment."""

    state: int
    working: int


@once_per_structure
def step_bytes(
    objective: Objective,
    parts: dict[str, Any],
    video: tuple[int, ...],
    *,
    dtype: torch.dtype | None,
    half: torch.dtype | None,
    device: str,
    kept_gradients: bool,
) -> int | None:
    """Bytes of a step at its busiest, its gradients included, in addition to weights and optimizer state.

    Args:
        objective: the loss.
        parts: the backbone, the codec and whatever else of the module the loss uses.
        video: shape of the clips, ``[B, T, H, W, 3]``; ``[B]`` for prompts alone.
        dtype: of the backbone's weights; None for the one they have.
        half: what autocast casts to; None without autocast.
        device: the device that is meant.
        kept_gradients: whether gradients of an earlier batch are alive in the backward pass, as under accumulation.

    Returns:
        None for a loss or a network that cannot run without values.
    """
    try:
        return max(
            _step_bytes(turn, parts, video, dtype=dtype, half=half, device=device, kept_gradients=kept_gradients)
            for turn in turns_of(objective)
        )
    except Exception:  # any loss and any network, by anyone: whatever it does that needs values
        log.debug("A training step could not be counted.", exc_info=True)
        return None


def turns_of(objective: Objective) -> Iterator[Objective]:
    """The loss at a step of the component, and at one of its critic where it has one; with shapes for networks."""
    shapes = copy(objective)
    for name in ("teacher", "critic"):
        if (network := getattr(objective, name)) is not None:
            setattr(shapes, name, without_numbers(network))
    shapes.step = 0
    if shapes.critic is None:
        yield shapes
        return
    for critic in (False, True):
        turn = copy(shapes)
        while turn.trains_critic != critic:
            turn.step += 1
        yield turn


def _step_bytes(
    objective: Objective,
    parts: dict[str, Any],
    video: tuple[int, ...],
    *,
    dtype: torch.dtype | None,
    half: torch.dtype | None,
    device: str,
    kept_gradients: bool,
) -> int:
    """Bytes of one turn."""
    shapes = {"backbone": without_numbers(parts["backbone"], dtype), "codec": without_numbers(parts["codec"])}
    if parts.get("finish") is not None:
        shapes["finish"] = without_numbers(parts["finish"])
    trained = objective.critic if objective.trains_critic and objective.critic else shapes[objective.trains]
    for network in (shapes[objective.trains], objective.critic, objective.teacher):
        if network is not None:
            set_trained(network.train(), network is trained)
    kernels = Kernels(half, device)
    kernels.hold_in(shapes["backbone"])
    with torch.random.fork_rng(devices=[]), Live(trained) as live, kernels:
        for weight in trainable(trained):
            weight.grad = torch.empty_like(weight)  # of the step before
        pipeline: Any = _Pipeline(**parts | shapes)
        loss = objective(pipeline, _clips(video))["loss"]
        if not kept_gradients:
            trained.zero_grad()
        loss.backward()
    return live.peak


class _Pipeline(SimpleNamespace):
    """What a loss sees of a ``Pipeline``, with shapes in place of clips and prompts."""

    device = torch.device("meta")
    routing = Components.routing

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video in pixels."""
        spec = self.backbone.spec
        size: tuple[int, int] = self.codec.pixel_size(spec.width, spec.height)
        return size

    def encode(self, video: Tensor) -> Tensor:
        """Latents of the clips. What the codec itself needs is counted elsewhere."""
        count = latent_frames(self.codec, video.shape[1])
        return torch.empty(len(video), count, *self.backbone.spec.latent_shape, device="meta")

    def condition(self, prompts: list[str]) -> Condition:
        """Text features of the width that the backbone or the conditioner says."""
        if (width := getattr(self.backbone, "text_dim", None)) is None:
            made: Condition = self.conditioner([""] * len(prompts))
            return made.to("meta")
        return Condition("", torch.empty(len(prompts), self.backbone.text_len, width, device="meta"))


def latent_frames(codec: VideoCodec, pictures: int) -> int:
    """The most latent frames that a clip of so many pixel frames holds; one at least."""
    count = 1
    while codec.pixel_frames(count + 1) <= pictures:
        count += 1
    return count


def _clips(video: tuple[int, ...]) -> Clips:
    if len(video) == 1:  # prompts alone
        return {"caption": [""] * video[0]}
    return {"video": torch.empty(video, dtype=torch.uint8, device="meta"), "caption": [""] * video[0]}


def update_of(
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], trained: nn.Module, dtype: torch.dtype | None, device: str
) -> Update | None:
    """The bytes of an optimizer of ``trained``, whose weights are of ``dtype`` where it is given.

    An optimizer that cannot run without values is run on one small parameter, and its state taken to grow with the
    parameters. None for one that cannot do that either.
    """
    weights = trainable(without_numbers(trained, dtype).requires_grad_(True))
    try:
        return _update(optimizer, weights, device)
    except Exception:  # any optimizer, by anyone
        log.debug("The optimizer could not be run without values.", exc_info=True)
    small = nn.Parameter(torch.ones(SMALL, dtype=weights[0].dtype))
    try:
        one = _update(optimizer, [small], "cpu")
    except Exception:
        log.debug("The optimizer could not be counted.", exc_info=True)
        return None
    share = sum(weight.nbytes for weight in weights) / small.nbytes
    return Update(round(one.state * share), one.working)


def _update(
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], weights: list[nn.Parameter], device: str
) -> Update:
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    made = optimizer(weights)
    for group in made.param_groups:
        if device.startswith("cuda") and group.get("foreach", 0) is None and not group.get("fused"):
            group["foreach"] = True  # torch's own choice there, which works on all parameters at once
    known = {id(each.untyped_storage()) for weight in weights for each in (weight, weight.grad) if each is not None}
    with Live() as live:
        live.seen |= known
        made.step()
    kept = {id(each.untyped_storage()): each.untyped_storage().nbytes() for each in tensors_in(dict(made.state))}
    state = sum(size for key, size in kept.items() if key not in known)
    return Update(state, max(0, live.peak - state))
