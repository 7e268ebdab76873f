"""What ``predict`` leaves behind: videos, contact sheets and a manifest, made while the rollout runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rollforge.data.requests import Request
from rollforge.policies.base import CachePolicy
from rollforge.report.progress import progress
from rollforge.report.run import Entry, RunFolder
from rollforge.video.beside import side_by_side
from rollforge.video.reader import frames
from rollforge.video.sheet import ContactSheet, draw, save
from rollforge.video.writer import VideoWriter

if TYPE_CHECKING:
    from rollforge.module import RolloutModule

SMALL = 384  # pixels: videos smaller than this are written with enlarged pixels


@dataclass
class VideoOutput:
    """Rolls requests into a run folder.

    Args:
        folder: the run folder.
    """

    folder: RunFolder
    made: dict[int, list[Path]] = field(default_factory=dict)  # by sample

    @property
    def files(self) -> list[Path]:
        """All that there is to look at."""
        return [file for _, files in sorted(self.made.items()) for file in files]

    def expect(self, module: RolloutModule, requests: Iterable[Request]) -> None:
        """Notes the videos that are missing. Raises ``UserError`` where another video has the name of one."""
        self.folder.expect(
            _entry(module, request, policy, file)
            for request in requests
            for policy, _, file in self._shown(module, request)
            if not self.folder.finished(file.name, request)
        )

    def merge(self, others: Sequence[VideoOutput]) -> None:
        """Takes up what other processes have made."""
        self.folder.merge(other.folder.entries for other in others)
        for other in others:
            self.made |= other.made

    def make(self, module: RolloutModule, request: Request) -> None:
        """The video of one request and its contact sheet; with a second policy, its video and both side by side too."""
        policies, labels, files = zip(*self._shown(module, request), strict=True)
        total = module.codec.pixel_frames(request.frames)
        sheets = [ContactSheet(label, total, module.fps) for label in labels]
        for policy, file, sheet in zip(policies, files, sheets, strict=True):
            self._video(module, request, policy, file, sheet)
        horizon = module.codec.pixel_frames(module.backbone.spec.horizon) / module.fps
        name = self.folder.name(request)
        sheet_file = self.folder.path / f"{name}.png"
        save(draw(sheets, request.prompt, horizon), sheet_file)
        look = [*files]
        if len(files) == 2:
            beside = self.folder.path / f"{name}.beside.mp4"
            side_by_side((files[1], files[0]), (labels[1], labels[0]), beside, horizon)
            look.append(beside)
        self.made[request.sample] = [*reversed(look), sheet_file]

    def _shown(self, module: RolloutModule, request: Request) -> list[tuple[CachePolicy, str, Path]]:
        """The policies to roll, what they are called, and where their videos go."""
        policies = [policy for policy in (module.policy, module.beside) if policy is not None]
        labels = [type(policy).__name__ for policy in policies]
        if len(set(labels)) < len(labels):
            labels[1] += "-beside"
        name = self.folder.name(request)
        names = [f"{name}.mp4" if len(policies) == 1 else f"{name}.{label}.mp4" for label in labels]
        return [(p, label, self.folder.path / n) for p, label, n in zip(policies, labels, names, strict=True)]

    def _video(
        self, module: RolloutModule, request: Request, policy: CachePolicy, file: Path, sheet: ContactSheet
    ) -> None:
        if self.folder.finished(file.name, request):
            for frame in frames(file):
                sheet.add(frame[None])
            return
        entry = _entry(module, request, policy, file)
        self.folder.record(entry)
        pace, rank = _Pace(), self.folder.rank
        with VideoWriter(file, module.size, module.fps, _scale(module)) as writer:
            for video in progress(module.roll([request], policy), sheet.total, module.fps, sheet.label, rank):
                block = video[0].numpy()
                writer.write(block)
                sheet.add(block)
                pace.block(len(block))
        entry |= {"frames": writer.written, "seconds": round(writer.written / module.fps, 3), **pace.figures()}
        self.folder.record(entry | {"complete": True})


def _scale(module: RolloutModule) -> int:
    return max(1, SMALL // min(module.size))


def _entry(module: RolloutModule, request: Request, policy: CachePolicy, file: Path) -> Entry:
    """What the manifest says of a video that is not there yet."""
    return {
        "file": file.name,
        "prompt": request.prompt,
        "seed": request.seed,
        "sample": request.sample,
        "policy": type(policy).__name__,
        "latent_frames": request.frames,
        "fps": module.fps,
        "size": [edge * _scale(module) for edge in module.size],
        "complete": False,
    }


class _Pace:
    """Wall time of a rollout, the first block apart."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first: float | None = None
        self.frames = 0
        self.last = self.start

    def block(self, frames: int) -> None:
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        else:
            self.frames += frames

    def figures(self) -> dict[str, float | None]:
        first = self.first or self.last
        steady = self.frames / (self.last - first) if self.frames else None
        return {
            "wall_seconds": round(self.last - self.start, 3),
            "first_block_seconds": round(first - self.start, 3),
            "steady_fps": round(steady, 2) if steady else None,
        }
