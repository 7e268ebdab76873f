"""What a forward pass holds in addition to weights, keys and values: shapes are run through the first layers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.budget.live import Live, without_numbers
from rollforge.budget.structure import once_per_structure
from rollforge.memory.base import Memory, Now, Projection
from rollforge.positions.rope import Rotation, rotate
from rollforge.spec import ModelSpec

LAYERS = 2  # all later layers are like the second
LIVE_WIDTHS, LIVE_WIDEST = 14, 2  # where a network needs numbers: tensors of its width, and of its widest layer


@dataclass(frozen=True)
class Activations:
    """Bytes of a pass for each latent frame in it, and for each context frame whose keys are rotated again."""

    busiest: int
    attending: int
    turning: int

    def of(self, passing: int, turned: int) -> int:
        """Bytes of a pass of ``passing`` frames at its busiest."""
        return max(passing * self.busiest, passing * self.attending + turned * self.turning)


@once_per_structure
@torch.no_grad()
def activations(backbone: Backbone, dtype: torch.dtype) -> Activations:
    """Of one video under a network that computes in ``dtype``; an estimate for one that cannot run without numbers."""
    spec = backbone.spec
    turning = _rotating(spec, dtype)
    try:
        shapes = without_numbers(backbone, dtype)
        latents = torch.empty(1, spec.block, *spec.latent_shape, device="meta", dtype=dtype)
        times = torch.empty(1, spec.block, device="meta")
        text = Condition("", torch.empty(1, getattr(backbone, "text_len", 1), 1, device="meta", dtype=dtype))
        with Live(shapes) as live:
            memory = _OwnBlock(live, spec, getattr(backbone, "text_len", 1), dtype)
            with contextlib.suppress(_Enough):
                shapes(latents, times, text, memory)
        return Activations(live.peak // spec.block, memory.most // spec.block, turning)
    except Exception:  # any network, by anyone: whatever it does that needs numbers
        widest = max((layer.out_features for layer in backbone.modules() if isinstance(layer, nn.Linear)), default=0)
        widths = LIVE_WIDTHS * spec.heads * spec.head_dim + LIVE_WIDEST * widest
        return Activations(spec.tokens * widths * dtype.itemsize, 0, turning)


def _rotating(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes while the keys of one frame are put together and rotated."""
    with Live() as live:
        keys = torch.empty(1, spec.tokens, spec.heads, spec.head_dim, device="meta", dtype=dtype)
        rotate(keys, _rotation(keys))
    return live.peak


def _rotation(keys: Tensor) -> Rotation:
    angles = torch.empty(keys.shape[1], 1, keys.shape[3] // 2, device="meta")
    return Rotation(angles, angles)


class _Enough(Exception):
    """The layers that are measured have run."""


class _OwnBlock(Memory):
    """Lets the first layers run as a rollout's memory does, with no keys and values but the block's own."""

    def __init__(self, live: Live, spec: ModelSpec, text_len: int, dtype: torch.dtype) -> None:
        self.live, self.most, self.frames = live, 0, range(spec.block)
        self.words = torch.empty(1, text_len, spec.heads, spec.head_dim, device="meta", dtype=dtype)

    @property
    def now(self) -> Now:
        return Now(self.frames, self.frames)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if layer >= LAYERS:
            raise _Enough
        self.most = max(self.most, self.live.now)
        rotation = _rotation(q)
        rotate(k, rotation)
        return torch.empty_like(rotate(q, rotation))  # a fused kernel writes nothing else

    def cross(self, layer: int, key: str, project: Projection) -> tuple[Tensor, Tensor]:
        return self.words, self.words
