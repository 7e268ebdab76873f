"""The callback that writes what ``predict`` and ``test`` leave in a run folder, block by block."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, Trainer

from rollforge.data.requests import Request
from rollforge.errors import UserError
from rollforge.metrics.base import Metric
from rollforge.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout
from rollforge.policies.base import CachePolicy
from rollforge.report.run import Entry, RunFolder
from rollforge.report.session import Session
from rollforge.report.video_recorder import VideoRecorder
from rollforge.rollout.abilities import check_recomputes, not_batching
from rollforge.signals import SignalHandler
from rollforge.snapshots.identity import devices_of, fingerprint, versions
from rollforge.snapshots.settings import Snapshots
from rollforge.snapshots.store import SnapshotStore
from rollforge.video.sheet import draw, save
from rollforge.video.side_by_side import side_by_side


class Results(NamedTuple):
    """What one process has made: entries of the manifest by file, and the files of each sample to look at."""

    entries: dict[str, Entry]
    made: dict[int, list[Path]]


@dataclass(eq=False)
class VideoOutput(Callback):
    """Writes videos, contact sheets, snapshots and a manifest into a run folder.

    It chooses what the module rolls, and from where: videos that are there already are left out, and those that an
    earlier run has started go on from its snapshots. Each finished block comes to ``on_block``.

    Args:
        folder: the run folder.
        pipeline: what makes the videos.
        metrics: what is measured of them.
        compare_policy: a second policy, rolled from the same prompts and seeds and shown next to the first.
        settings: when snapshots are made.
        resume: continue from snapshots of an earlier run.
        force: even where something has changed since.
        precision: of the Trainer, on which the pixels depend.
    """

    folder: RunFolder
    pipeline: Pipeline
    metrics: Sequence[Metric] = ()
    compare_policy: CachePolicy | None = None
    settings: Snapshots = field(default_factory=Snapshots)
    resume: bool = False
    force: bool = False
    precision: str = "32-true"
    stop: SignalHandler = field(default_factory=SignalHandler)
    made: dict[int, list[Path]] = field(default_factory=dict)  # by sample
    weights: dict[str, str] = field(default_factory=dict)  # fingerprints, once they are asked for
    session: Session | None = None  # of the videos that are being rolled

    @property
    def files(self) -> list[Path]:
        """All that there is to look at."""
        return [file for _, files in sorted(self.made.items()) for file in files]

    def expect(self, requests: Iterable[Request]) -> None:
        """Notes the videos that are missing.

        Raises:
            UserError: where another video has the name of one, or an earlier run has left half of one and nothing says
                what shall become of it.
        """
        missing = [
            recording
            for request in requests
            for recording in self._recordings(request)
            if not self.folder.finished(recording.file.name, request)
        ]
        if self.settings.kv == "recompute":
            for recording in missing:
                check_recomputes(recording.policy, self.pipeline.sampler)
        started = next((recording for recording in missing if recording.started), None)
        if started and not self.resume and not self.folder.overwrite:
            raise UserError(
                f"{started.file} is incomplete; its snapshots are in {started.folder}; add --resume "
                "to continue from there, or --overwrite true to start over."
            )
        self.folder.expect(_entry(recording) for recording in missing)

    @property
    def results(self) -> Results:
        """What this process has made."""
        return Results(self.folder.entries, self.made)

    def merge(self, others: Sequence[Results]) -> None:
        """Adds what other processes have made."""
        self.folder.merge(other.entries for other in others)
        for other in others:
            self.made |= other.made

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """The module rolls what this callback says."""
        pl_module.rollouts = self.rollouts

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Listens to signals, here, since Lightning has now installed its own handlers."""
        self.stop.install()

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The same."""
        self.stop.install()

    def on_block(self, trainer: Trainer, pl_module: Any, block: VideoBlock) -> None:
        """Records a finished block. Raises ``SystemExit`` after a signal, once what is made is saved."""
        assert self.session is not None
        self.session.add(block)

    def rollouts(self, requests: Sequence[Request]) -> Generator[VideoRollout]:
        """The rollouts of requests of one length, and after the last their contact sheets.

        With a second policy there are two, and a video that shows both next to each other. Raises ``SystemExit``
        after a signal.
        """
        by_request = [self._recordings(request) for request in requests]
        for together in zip(*by_request, strict=True):
            alone = not_batching(self.pipeline.rollout(together[0].policy)) is not None
            for group in [[each] for each in together] if alone else [together]:
                self.stop.exit_if_requested()
                yield from self._roll(group)
        for request, recordings in zip(requests, by_request, strict=True):
            self._present(request, recordings)

    def _present(self, request: Request, recordings: list[VideoRecorder]) -> None:
        """What there is to look at, drawn where it is not there yet."""
        files, name = [recording.file for recording in recordings], self.folder.name(request)
        sheet, both_file = self.folder.path / f"{name}.png", self.folder.path / f"{name}.side-by-side.mp4"
        both = [both_file] if len(files) == 2 else []
        if not all(recording.shown for recording in recordings) or not all(file.exists() for file in (sheet, *both)):
            self._show(request, recordings, sheet, both_file)
        self.made[request.sample] = [*both, *reversed(files), sheet]

    def _show(self, request: Request, recordings: list[VideoRecorder], sheet: Path, both_file: Path) -> None:
        """Draws the contact sheet, and lays two videos side by side."""
        horizon = self.pipeline.horizon_seconds
        for recording in recordings:
            if not recording.sheet.seen:
                recording.look_again(self.stop)
        save(draw([recording.sheet for recording in recordings], request.prompt, horizon), sheet)
        if len(recordings) == 2:
            one, other = recordings
            side_by_side(
                (other.file, one.file), (other.label, one.label), both_file, horizon, self.stop.exit_if_requested
            )
        for recording in recordings:
            recording.settle()

    def _recordings(self, request: Request) -> list[VideoRecorder]:
        """The policies to roll, what they are called, and where their videos go."""
        policies = [policy for policy in (self.pipeline.policy, self.compare_policy) if policy is not None]
        labels = [type(policy).__name__ for policy in policies]
        if len(set(labels)) < len(labels):
            labels[1] += "-compared"
        name = self.folder.name(request)
        names = [f"{name}.mp4" if len(policies) == 1 else f"{name}.{label}.mp4" for label in labels]
        return [
            VideoRecorder(self.pipeline, request, policy, self.folder.path / file, label, self.settings, self.metrics)
            for policy, label, file in zip(policies, labels, names, strict=True)
        ]

    def _roll(self, recordings: Sequence[VideoRecorder]) -> Generator[VideoRollout]:
        """The rollout of the videos under one policy that are not there yet."""
        missing = [each for each in recordings if not self.folder.finished(each.file.name, each.request)]
        for recording in recordings:
            if recording not in missing:  # a run that was killed in its last moment may have left something
                SnapshotStore(recording.folder).clear()
                recording.tidy()
        if not missing:
            return
        entries = [_entry(recording) for recording in missing]
        self.folder.record(*entries)
        self.session = session = Session(missing, cache(lambda: self._identity(missing)))
        yield from session.run(self.stop, self.folder.rank, self.resume, self.force)
        done = [entry | each.figures | {"complete": True} for entry, each in zip(entries, missing, strict=True)]
        self.folder.record(*done)
        session.clear()

    def _identity(self, recordings: Sequence[VideoRecorder]) -> dict[str, Any]:
        """What the pixels of videos depend on."""
        if not self.weights:
            self.weights = {"backbone": fingerprint(self.pipeline.backbone), "codec": fingerprint(self.pipeline.codec)}
        videos = {each.file.name: each.request.content for each in recordings}
        return {
            "videos": videos,
            "policy": recordings[0].label,
            "model": self.folder.config.get("model", {}),
            "precision": self.precision,
            "weights": self.weights,
            "versions": versions(*devices_of(self.pipeline.backbone, self.pipeline.codec)),
            "snapshots": {"kv": self.settings.kv},
            "measured": [type(metric).__name__ for metric in self.metrics],  # test has some that no config names
        }


def _entry(recording: VideoRecorder) -> Entry:
    """What the manifest says of a video that is not there yet."""
    pipeline, request = recording.pipeline, recording.request
    return {
        "file": recording.file.name,
        **request.content,
        "sample": request.sample,
        "policy": type(recording.policy).__name__,
        "fps": pipeline.fps,
        "size": [edge * recording.scale for edge in pipeline.size],
        "complete": False,
    }
