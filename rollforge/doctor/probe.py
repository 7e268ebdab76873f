"""Runs a rollout for some seconds and estimates the time of the complete run."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rollforge.backbones.base import Backbone
from rollforge.data.requests import Request
from rollforge.pipeline import Pipeline
from rollforge.samplers.base import Job, Pass, Sampler
from rollforge.spec import ModelSpec, Step
from rollforge.video.writer import VideoWriter, enlargement

DRY = 8  # blocks over which the passes of a sampler are counted


class PassTimer:
    """Times each forward pass of a network, and ends the rollout once ``seconds`` have passed since the first.

    Args:
        backbone: the network.
        seconds: after which ``TimeIsUp`` is raised, at the start of a pass.
    """

    def __init__(self, backbone: Backbone, seconds: float) -> None:
        self.seconds = seconds
        self.passes: list[tuple[int, int, float]] = []  # first frame, number of frames, seconds
        self.first: float | None = None
        self._hooks = [
            backbone.register_forward_pre_hook(self._before),
            backbone.register_forward_hook(self._after),
        ]

    def close(self) -> None:
        """Leaves the network as it was."""
        for hook in self._hooks:
            hook.remove()

    def _before(self, backbone: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._started = _now()
        self.first = self.first or self._started
        if self._started - self.first > self.seconds and self.passes:
            raise TimeIsUp

    def _after(self, backbone: nn.Module, inputs: tuple[Any, ...], flow: Any) -> None:
        frames = inputs[3].now.frames
        self.passes.append((frames[0], len(frames), _now() - self._started))


class TimeIsUp(BaseException):
    """The time of the probe is over. No component's handler may catch it."""


@dataclass
class Probe:
    """Measurements of a rollout of some seconds.

    ``per_block`` counts passes of one block (a pass of two blocks is two), ``start`` is the time until the first pass,
    ``extra`` what a block takes in addition to its passes (decoding, writing), ``frame_bytes`` the bytes of a pixel
    frame in the mp4; the latter two are None where no block was finished.
    """

    spec: ModelSpec
    visible: int
    weights: int
    passes: list[tuple[int, int, float]]
    per_block: float
    start: float
    blocks: int = 0
    extra: float | None = None
    frame_bytes: float | None = None

    def seconds(self, frames: int) -> float:
        """Wall time of a video of ``frames`` latent frames, the start not counted."""
        recent = self.passes[len(self.passes) // 2 :]  # the first ones are slower than all that come
        unit = statistics.median(taken / self._cost(start, count) for start, count, taken in recent)
        starts = range(0, frames, self.spec.block)
        passing = self.per_block * unit * sum(self._cost(start, self.spec.block) for start in starts)
        return passing + len(starts) * (self.extra or 0.0)

    def _cost(self, start: int, count: int) -> float:
        """Multiplications of a pass of ``count`` frames from ``start`` on, which reads more as the window fills."""
        spec, queries = self.spec, count * self.spec.tokens
        seen = (min(start, self.visible) + count) * spec.tokens
        return float(queries * self.weights + 2 * spec.layers * queries * seen * spec.heads * spec.head_dim)


@torch.no_grad()
def probe(pipeline: Pipeline, request: Request, seconds: float) -> Probe:
    """Rolls one request for ``seconds`` after its first pass, into a video in a temporary folder."""
    began, spec = _now(), pipeline.backbone.spec
    timed = PassTimer(pipeline.backbone, seconds)
    try:
        with tempfile.TemporaryDirectory() as folder:
            blocks, frames, size = _roll(pipeline, request, Path(folder) / "probe.mp4")
    finally:
        timed.close()
    ended, first = _now(), timed.first or began
    weights = sum(weight.numel() for weight in pipeline.backbone.parameters())
    per_block = passes_per_block(pipeline.sampler, spec) or len(timed.passes) / max(1, blocks)
    made = Probe(spec, pipeline.policy.visible(spec.block), weights, timed.passes, per_block, first - began)
    if blocks and frames:
        spent = ended - first - sum(taken for *_, taken in timed.passes)
        made.blocks, made.extra, made.frame_bytes = blocks, max(0.0, spent) / blocks, size / frames
    return made


def passes_per_block(sampler: Sampler, spec: ModelSpec) -> float | None:
    """Forward passes of a block's size that a sampler requests for a block, those of guidance included.

    Counted on blocks of zeros, without a network. None for a sampler that needs more than that.
    """
    steps = [Step.of(n, spec.block) for n in range(DRY)]
    passes = deepcopy(sampler).run(Job(steps, lambda step, level: torch.zeros(1, len(step.frames), *spec.latent_shape)))
    frames = 0
    reply: Any = None
    with suppress(Exception):  # any sampler, by anyone
        while True:
            try:
                request = next(passes) if reply is None else passes.send(reply)
            except StopIteration:
                return frames / (DRY * spec.block)
            if isinstance(request, Pass):
                frames += len(request.step.frames) * len(request.branches)
                reply = request.answer([torch.zeros_like(request.latents)] * len(request.branches))
            else:
                reply = True
    return None


def _roll(pipeline: Pipeline, request: Request, file: Path) -> tuple[int, int, int]:
    """Blocks, pixel frames and bytes that were made."""
    size, blocks = pipeline.finished_size, 0
    writer = VideoWriter(file, size, pipeline.fps, enlargement(size))
    try:
        for block in pipeline.roll_requests([request]):
            writer.write(block.frames[0].numpy())
            blocks += 1
    except TimeIsUp:
        pass
    finally:
        writer.abandon()
    return blocks, writer.written, writer.partial.stat().st_size if writer.partial.exists() else 0


def duration(seconds: float) -> str:
    """Seconds in words."""
    units: list[tuple[float, str]] = [(86400, "days"), (3600, "hours"), (60, "minutes")]
    return next((f"{seconds / size:.1f} {name}" for size, name in units if seconds >= 1.5 * size), f"{seconds:.1f} s")


def _now() -> float:
    """The time, after synchronizing a GPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
