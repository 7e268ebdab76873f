"""One video in progress: its file, its contact sheet, its metrics and its latents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from rollforge.data.requests import Request
from rollforge.files.checksummed import Damaged, read_sealed, write_sealed
from rollforge.files.writing import PARTIAL, subfolder
from rollforge.metrics.base import Blocks, Metric
from rollforge.pipeline import Pipeline
from rollforge.policies.base import CachePolicy
from rollforge.report.frame_record import FrameRecord
from rollforge.report.metric_runner import Curves, MetricRunner
from rollforge.signals import SignalHandler
from rollforge.snapshots.folder import remove
from rollforge.snapshots.latents import LatentStore
from rollforge.snapshots.settings import Snapshots
from rollforge.state import State
from rollforge.video.reader import frames
from rollforge.video.sheet import ContactSheet
from rollforge.video.writer import VideoWriter, enlargement

SHEET = "sheet"


@dataclass(eq=False)
class VideoRecorder:
    """Records one request under one policy.

    Args:
        pipeline: generates it.
        request: the request.
        policy: the policy.
        file: the finished video.
        label: its name on the contact sheet and the progress bar.
        settings: what is saved of it until then.
        metrics: its metrics.
    """

    pipeline: Pipeline
    request: Request
    policy: CachePolicy
    file: Path
    label: str
    settings: Snapshots
    metrics: Sequence[Metric] = ()
    sheet: ContactSheet = field(init=False)
    writer: VideoWriter = field(init=False)
    figures: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        codec = self.pipeline.codec
        self.sheet = ContactSheet(self.label, codec.pixel_frames(self.request.frames), self.pipeline.fps)
        self.folder = subfolder(self.file.parent, "snapshots", self.file.stem)
        self.latents = LatentStore(subfolder(self.file.parent, "latents", self.file.stem))
        self.measures = MetricRunner(self.metrics)
        spec = self.pipeline.backbone.spec
        self.blocks = Blocks.of(codec.pixel_frames, spec.block, spec.first_block)
        self.curves: Curves | None = None
        self.record: FrameRecord | None = None
        self.unsaved: list[Tensor] = []  # latents since the last snapshot

    @property
    def scale(self) -> int:
        """Pixels of the file to a pixel of the video, each way."""
        return enlargement(self.pipeline.finished_size)

    @property
    def keeps_latents(self) -> bool:
        """Whether latents are saved."""
        return self.settings.latents or self.settings.kv == "recompute"

    @property
    def started(self) -> bool:
        """Whether an earlier run has left snapshots of this video."""
        return self.folder.is_dir() and any(self.folder.glob("snapshot-*.safetensors"))

    @property
    def shown(self) -> bool:
        """Whether the contact sheet is drawn."""
        return not self._picked.exists()

    def open(self, state: State | None = None) -> None:
        """Opens the files, from the start or from a state that ``state_dict`` returned.

        Raises ``UserError`` where the file does not match the state; nothing is changed then.
        """
        self.measures.start(self.request.prompt, self.pipeline.fps, self.blocks)
        self.record = FrameRecord(self.pipeline.fps)
        if state is not None:
            self.measures.load_state_dict(state["measures"])
            self.sheet.load_state_dict(state["sheet"])
            self._load_record(state.get("record"))
            self._reopen()
        kept = state["writer"] if state else None
        self.writer = VideoWriter(self.file, self.pipeline.finished_size, self.pipeline.fps, self.scale, state=kept)
        if self.metrics:
            latent_fps = self.pipeline.backbone.spec.fps
            self.curves = Curves(self.file, self.pipeline.fps, latent_fps, state["curves"] if state else None)

    def add_block(self, video: Tensor, latents: Tensor, measured: Tensor) -> None:
        """The next block: pixel frames uint8 ``[T, H, W, 3]``, latents ``[F, C, h, w]``, and frames for the metrics."""
        if self.curves:
            self.curves.add(self.measures, measured, latents)
        if self.record:
            self.record.add(measured.numpy())
        self.writer.write(video.numpy())
        self.sheet.add(video.numpy())
        if self.keeps_latents:
            self.unsaved.append(latents[None].cpu())

    def written(self) -> State:
        """The part of its state that is on the disk already."""
        return {"writer": self.writer.state_dict(), "curves": self.curves.state_dict() if self.curves else None}

    def state_dict(self) -> State:
        """The rest of its state. Latents that are kept go to the disk before."""
        self.save_latents()
        record = {"record": self.record.state_dict()} if self.record else {}
        return {"sheet": self.sheet.state_dict(), "measures": self.measures.state_dict()} | record

    def save_latents(self) -> None:
        """Writes the latents that are not on the disk yet."""
        if self.unsaved:
            self.latents.append(self.unsaved, self.latents.frames)
            self.unsaved = []

    def finish(self) -> None:
        """Finishes the files after the last block and gives them their final names.

        Raises ``UserError`` if the frames of the contact sheet cannot be saved; a resumed run then draws the same
        sheet, which could not be drawn from the compressed video.
        """
        picked = {f"{n:06d}": image for n, image in enumerate(self.sheet.state_dict()["images"])}
        write_sealed(self._picked, SHEET, {"seen": str(self.sheet.seen)}, picked)
        self.writer.close()
        if self.curves:
            self.curves.finish()
        if self.settings.latents:
            self.save_latents()
        if self.record:
            self.figures |= self.record.leave(self.file, bool(self.metrics))
        self.figures["frames"] = self.writer.written
        self.figures["seconds"] = round(self.writer.written / self.pipeline.fps, 3)
        if self.metrics:
            figures = self.measures.finish().items()
            self.figures["measured"] = {name: round(value, 6) if isfinite(value) else None for name, value in figures}
        if self.measures.out:
            self.figures["failed_metrics"] = self.measures.out

    def look_again(self, stop: SignalHandler) -> None:
        """The contact sheet of a finished video: as saved by its run, else drawn from the file."""
        try:
            words, images = read_sealed(self._picked, SHEET)
            self.sheet.load_state_dict({"seen": int(words["seen"]), "images": [images[n] for n in sorted(images)]})
        except (Damaged, ValueError, KeyError):
            width, height = self.pipeline.finished_size
            for frame in frames(self.file):
                self.sheet.add(frame[None, :: self.scale, :: self.scale][:, :height, :width])
                stop.exit_if_requested()

    def settle(self) -> None:
        """Deletes the saved contact sheet, once it is drawn."""
        for path in (self._picked, self._picked.with_name(self._picked.name + PARTIAL)):
            remove(path)
        self.tidy()

    def tidy(self) -> None:
        """Removes latents that are not to be kept, and empty folders."""
        if not self.settings.latents:
            self.latents.clear()
        for folder in (self.folder, self.folder.parent, self.latents.folder.parent):
            with suppress(OSError):  # something else is in there
                folder.rmdir()

    def _load_record(self, state: State | None) -> None:
        """Of a snapshot of an earlier version there is none."""
        if state is None:
            self.record = None
        elif self.record:
            self.record.load_state_dict(state)

    def _reopen(self) -> None:
        """Restores the partial name: the final one exists if a run was killed before the manifest listed the video."""
        partial = self.file.with_suffix(".partial.mp4")
        if self.file.exists() and not partial.exists():
            self.file.rename(partial)

    @property
    def _picked(self) -> Path:
        return self.folder / f"{SHEET}.safetensors"
