"""What ``predict`` leaves behind: videos, contact sheets and a manifest, made while the rollout runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge.data.requests import Request
from rollforge.policies.base import CachePolicy
from rollforge.report.progress import progress
from rollforge.report.run import RunFolder
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
    made: list[Path] = field(default_factory=list)

    def make(self, module: RolloutModule, request: Request) -> None:
        """The video of one request and its contact sheet; with a second policy, its video and both side by side too."""
        name = self.folder.name(request)
        shown = [policy for policy in (module.policy, module.beside) if policy is not None]
        labels = [type(policy).__name__ for policy in shown]
        if len(set(labels)) < len(labels):
            labels[1] += "-beside"
        files = [self.folder.path / (f"{name}.mp4" if len(shown) == 1 else f"{name}.{label}.mp4") for label in labels]
        total = module.codec.pixel_frames(request.frames)
        sheets = [ContactSheet(label, total, module.fps) for label in labels]
        for policy, file, sheet in zip(shown, files, sheets, strict=True):
            self._video(module, request, policy, file, sheet)
        horizon = module.codec.pixel_frames(module.backbone.spec.horizon) / module.fps
        sheet_file = self.folder.path / f"{name}.png"
        save(draw(sheets, request.prompt, horizon), sheet_file)
        if len(shown) == 2:
            beside = self.folder.path / f"{name}.beside.mp4"
            side_by_side((files[1], files[0]), (labels[1], labels[0]), beside, horizon)
            files.append(beside)
        self.made += [*reversed(files), sheet_file]

    def _video(
        self, module: RolloutModule, request: Request, policy: CachePolicy, file: Path, sheet: ContactSheet
    ) -> None:
        if self.folder.finished(file.name, request):
            for frame in frames(file):
                sheet.add(frame[None])
            return
        width, height = module.size
        scale = max(1, SMALL // min(width, height))
        entry: dict[str, Any] = {
            "file": file.name,
            "prompt": request.prompt,
            "seed": request.seed,
            "sample": request.sample,
            "policy": type(policy).__name__,
            "latent_frames": request.frames,
            "fps": module.fps,
            "size": [width * scale, height * scale],
            "complete": False,
        }
        self.folder.record(entry)
        pace = _Pace()
        with VideoWriter(file, module.size, module.fps, scale) as writer:
            for video in progress(module.roll([request], policy), sheet.total, module.fps, sheet.label):
                block = video[0].numpy()
                writer.write(block)
                sheet.add(block)
                pace.block(len(block))
        entry |= {"frames": writer.written, "seconds": round(writer.written / module.fps, 3), **pace.figures()}
        self.folder.record(entry | {"complete": True})


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
