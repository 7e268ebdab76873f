"""The blocks of a video as steps: generated and initial ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from rollforge.spec import ModelSpec, Phase, Step


@dataclass(frozen=True)
class Block:
    """A finished block: its number, its first frame and its latents ``[B, F, C, H, W]``."""

    index: int
    start: int
    latents: Tensor


def step_of(spec: ModelSpec, index: int, start: int) -> Step:
    """Block number ``index``, which is the video's first where it starts at frame 0."""
    count = spec.block if start else spec.first
    return Step(index, start, spec.block, count=None if count == spec.block else count)


def given_steps(given: Tensor | None, spec: ModelSpec) -> Iterator[Step]:
    """Initial frames as passes: what fills no whole block first, then whole blocks."""
    frames, block = 0 if given is None else given.shape[1], spec.block
    first, start = frames % block, 0
    if frames >= spec.first and (frames - spec.first) % block == 0:
        first = spec.first
    for index, count in enumerate([*([first] if first else []), *[block] * ((frames - first) // block)]):
        yield Step(index, start, block, Phase.PREFILL, count=None if count == block else count)
        start += count
