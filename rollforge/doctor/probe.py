"""Rolls for some seconds and says how long the whole will take."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rollforge.data.requests import Request
from rollforge.pipeline import Pipeline
from rollforge.report.video_recorder import SMALL
from rollforge.samplers.base import Job, Pass, Passes, Sampler
from rollforge.spec import ModelSpec, Step
from rollforge.video.writer import VideoWriter

DRY = 8  # blocks over which the passes of a sampler are counted


class Timed(Sampler):
    """A sampler that times each forward pass, and stops for good once ``seconds`` have gone by since the first."""

    def __init__(self, sampler: Sampler, seconds: float) -> None:
        self.sampler, self.seconds, self.guidance_branches = sampler, seconds, sampler.guidance_branches
        self.passes: list[tuple[int, float]] = []  # first frame of the block, seconds
        self.first: float | None = None

    def run(self, job: Job) -> Passes:
        passes = self.sampler.run(job)
        answer: Tensor | None = None
        while True:
            try:
                request = next(passes) if answer is None else passes.send(answer)
            except StopIteration:
                return
            started = _now()
            self.first = self.first or started
            if started - self.first > self.seconds and self.passes:
                return
            answer = yield request
            if isinstance(request, Pass):
                self.passes.append((request.step.start, _now() - started))


@dataclass
class Probe:
    """What some seconds of rolling have shown.

    ``start`` is the time until the first pass, ``beside`` what a block takes beside its passes (decoding, writing),
    ``frame_bytes`` the bytes of a pixel frame in the mp4; the latter two are None where no block was finished.
    """

    spec: ModelSpec
    visible: int
    weights: int
    passes: list[tuple[int, float]]
    per_block: float
    start: float
    blocks: int = 0
    beside: float | None = None
    frame_bytes: float | None = None

    def seconds(self, frames: int) -> float:
        """Wall time of a video of ``frames`` latent frames, the start not counted."""
        recent = self.passes[len(self.passes) // 2 :]  # the first ones are slower than all that come
        unit = statistics.median(taken / self._cost(start) for start, taken in recent)
        starts = range(0, frames, self.spec.block)
        passing = self.per_block * unit * sum(map(self._cost, starts))
        return passing + len(starts) * (self.beside or 0.0)

    def _cost(self, start: int) -> float:
        """Multiplications of a pass of the block at ``start``, which sees more frames as the window fills."""
        spec, queries = self.spec, self.spec.block * self.spec.tokens
        seen = (min(start, self.visible) + spec.block) * spec.tokens
        return float(queries * self.weights + 2 * spec.layers * queries * seen * spec.heads * spec.head_dim)


@torch.no_grad()
def probe(pipeline: Pipeline, request: Request, seconds: float) -> Probe:
    """Rolls one request for ``seconds`` after its first pass, into a video in a temporary folder."""
    sampler, began = pipeline.sampler, _now()
    pipeline.sampler = timed = Timed(sampler, seconds)
    spec = pipeline.backbone.spec
    try:
        with tempfile.TemporaryDirectory() as folder:
            blocks, frames, size = _roll(pipeline, request, Path(folder) / "probe.mp4")
    finally:
        pipeline.sampler = sampler
    ended, first = _now(), timed.first or began
    weights = sum(weight.numel() for weight in pipeline.backbone.parameters())
    made = Probe(
        spec, pipeline.policy.visible(spec.block), weights, timed.passes, passes_per_block(sampler, spec), first - began
    )
    if blocks and frames:
        spent = ended - first - sum(taken for _, taken in timed.passes)
        made.blocks, made.beside, made.frame_bytes = blocks, max(0.0, spent) / blocks, size / frames
    return made


def passes_per_block(sampler: Sampler, spec: ModelSpec) -> float:
    """Forward passes that a sampler asks for, those of guidance included, counted on one value for each frame."""
    blank = torch.zeros(1, spec.block, 1, 1, 1)
    passes = sampler.run(Job([Step.of(n, spec.block) for n in range(DRY)], lambda step, level: blank))
    count = 0
    answer: Tensor | None = None
    while True:
        try:
            request = next(passes) if answer is None else passes.send(answer)
        except StopIteration:
            return count / DRY
        is_pass = isinstance(request, Pass)
        count += is_pass
        answer = torch.zeros_like(request.latents) if is_pass else None


def _roll(pipeline: Pipeline, request: Request, file: Path) -> tuple[int, int, int]:
    """Blocks, pixel frames and bytes that were made."""
    writer, blocks = VideoWriter(file, pipeline.size, pipeline.fps, max(1, SMALL // min(pipeline.size))), 0
    try:
        for video in pipeline.roll_requests([request]):
            writer.write(video[0].numpy())
            blocks += 1
    finally:
        writer.abandon()
    return blocks, writer.written, writer.partial.stat().st_size if writer.partial.exists() else 0


def duration(seconds: float) -> str:
    """Seconds in words."""
    units: list[tuple[float, str]] = [(86400, "days"), (3600, "hours"), (60, "minutes")]
    return next((f"{seconds / size:.1f} {name}" for size, name in units if seconds >= 1.5 * size), f"{seconds:.1f} s")


def _now() -> float:
    """The time, once all that was asked of a GPU is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
