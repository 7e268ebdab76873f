"""The block loop as ``predict`` runs it, with the time of each phase: denoise, commit, decode, to host, encode."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition, DecodeStream
from rollforge.gpu.full_window import with_full_window
from rollforge.gpu.timing import Clock, TimedSampler
from rollforge.policies.base import CachePolicy
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep

WARM, TIMED = 8, 4
"""Blocks before the timed ones, so that the default window of 21 frames is full, and the timed ones."""
WARM_IF_FULL = 2
"""Blocks before the timed ones where the window is full from the start."""


@dataclass
class Times:
    """What a rollout took.

    Args:
        first: milliseconds of the first block.
        blocks: milliseconds of each timed block, by the clock.
        phases: milliseconds of each phase, on average over the timed blocks.
    """

    first: float = 0.0
    blocks: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """For a row: the median block, its phases, and the first block."""
        phases = {f"{name} ms": value for name, value in self.phases.items()}
        return {"block ms": statistics.median(self.blocks), **phases, "first block ms": self.first}


def run_blocks(
    backbone: Backbone,
    condition: Condition,
    policy: CachePolicy,
    device: str,
    decode: DecodeStream | None = None,
    write: Callable[[Tensor], None] | None = None,
    kernels: AbstractContextManager[Any] | None = None,
    full_window: bool = False,
    fuse_commit: bool = False,
) -> Times:
    """Runs the loop once. ``decode`` and ``write`` are left out where they are None.

    With ``full_window`` it starts with random keys, so that a compiled network needs the steady graphs alone.
    """
    clock, times = Clock(device), Times()
    rollout = Rollout(backbone, policy, FewStep(), fuse_commit=fuse_commit)
    warm = WARM_IF_FULL if full_window else WARM
    blocks = warm + TIMED + 1  # the last block has no commit pass
    run = with_full_window(rollout, condition, blocks) if full_window else None
    run = run or rollout(condition, blocks * backbone.spec.block)
    run.parts.sampler = TimedSampler(run.sampler, clock)
    with kernels or nullcontext():
        for number in range(warm + TIMED):
            began = time.perf_counter()
            block = next(run)
            if decode is not None:
                with clock.span("decode"):
                    frames = decode(block.latents)
                if write is not None:
                    _to_video(frames, write, clock)
            clock.wait()
            took = (time.perf_counter() - began) * 1e3
            times.first = times.first or took
            if number >= warm:
                times.blocks.append(took)
            if number == warm - 1:
                clock.take()
    times.phases = {name: total / TIMED for name, total in clock.take().items()}
    return times


def _to_video(frames: Tensor, write: Callable[[Tensor], None], clock: Clock) -> None:
    from rollforge.pipeline.video_rollout import to_bytes

    with clock.span("to host"):
        pixels = to_bytes(frames)
    began = time.perf_counter()
    write(pixels)
    clock.add("encode", time.perf_counter() - began)


def peak_bytes(device: str) -> int:
    """The most memory that tensors held on a CUDA device since ``reset_peak``; 0 elsewhere."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def reset_peak(device: str) -> None:
    """Starts counting the peak again, with the caches of earlier work given back."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
