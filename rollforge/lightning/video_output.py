"""The callback that writes the run folder of ``predict`` and ``test``, block by block."""

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
from rollforge.parallel import ContextGroup
from rollforge.pipeline import Pipeline
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout
from rollforge.policies.base import CachePolicy
from rollforge.report.follower import Follower
from rollforge.report.run import Entry, RunFolder
from rollforge.report.session import Session
from rollforge.report.video_recorder import VideoRecorder
from rollforge.rollout.abilities import check_recomputes, not_batching
from rollforge.signals import SignalHandler
from rollforge.snapshots.identity import devices_of, fingerprint, versions
from rollforge.snapshots.settings import Snapshots
from rollforge.snapshots.store import SnapshotStore
from rollforge.video import SIDE_BY_SIDE
from rollforge.video.sheet import draw, save
from rollforge.video.side_by_side import side_by_side


class Results(NamedTuple):
    """The results of one process: entries of the manifest by file, and the files of each sample."""

    entries: dict[str, Entry]
    made: dict[int, list[Path]]


@dataclass(eq=False)
class VideoOutput(Callback):
    """Writes videos, contact sheets, snapshots and a manifest into a run folder.

    It decides which videos the module generates: complete videos are skipped, and those that an earlier run has started
    continue from its snapshots. Every finished block is passed to ``on_block``.

    Args:
        folder: the run folder.
        pipeline: generates the videos.
        metrics: metrics of the videos.
        compare_policy: a second policy, run with the same prompts and seeds and shown next to the first.
        settings: when snapshots are saved.
        resume: continue from snapshots of an earlier run.
        force: resume even if the config, code or machine has changed.
        precision: of the Trainer, on which the pixels depend.
        stop: handles signals: the first one saves and stops the run.
        made: files of the generated videos, by sample number.
        weights: fingerprints of the components' weights, computed when first needed.
        session: the videos in progress; None between rollouts.
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
    made: dict[int, list[Path]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    session: Session | Follower | None = None

    @property
    def files(self) -> list[Path]:
        """The files to open, by sample."""
        return [file for _, files in sorted(self.made.items()) for file in files]

    def expect(self, requests: Iterable[Request]) -> None:
        """Adds the missing videos to the manifest.

        Raises:
            UserError: where another video has the name of one, or an earlier run has left an incomplete one and neither
                ``resume`` nor ``overwrite`` is set.
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
        """The results of this process."""
        return Results(self.folder.entries, self.made)

    def merge(self, others: Sequence[Results]) -> None:
        """Adds the results of other processes."""
        self.folder.merge(other.entries for other in others)
        for other in others:
            self.made |= other.made

    @property
    def group(self) -> ContextGroup | None:
        """The processes that make each video together."""
        return self.pipeline.group

    @property
    def writes(self) -> bool:
        """Whether this process writes the videos that it makes: of several that make one together, the first."""
        return self.group is None or self.group.leads

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Registers with the module, which then generates what this callback chooses."""
        pl_module.rollouts = self.rollouts

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Installs the signal handlers, after Lightning has installed its own."""
        self._listen()

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Installs the signal handlers, after Lightning has installed its own."""
        self._listen()

    def _listen(self) -> None:
        self.stop.install()
        self.stop.together = None if self.group is None else self.group.highest

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
                self.stop.exit_together()
                yield from self._roll(group) if self.writes else self._follow(group)
        for request, recordings in zip(requests if self.writes else (), by_request, strict=False):
            self._present(request, recordings)

    def _present(self, request: Request, recordings: list[VideoRecorder]) -> None:
        """The files to open; draws those that do not exist yet."""
        files, name = [recording.file for recording in recordings], self.folder.name(request)
        sheet, both_file = self.folder.path / f"{name}.png", self.folder.path / f"{name}{SIDE_BY_SIDE}.mp4"
        both = [both_file] if len(files) == 2 else []
        if not all(recording.shown for recording in recordings) or not all(file.exists() for file in (sheet, *both)):
            self._show(request, recordings, sheet, both_file)
        self.made[request.sample] = [*both, *reversed(files), sheet]

    def _show(self, request: Request, recordings: list[VideoRecorder], sheet: Path, both_file: Path) -> None:
        """Draws the contact sheet, and writes two videos side by side."""
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
        """The policies, their labels, and the paths of their videos."""
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
        """The rollout, under one policy, of the videos that do not exist yet."""
        missing = [each for each in recordings if not self.folder.finished(each.file.name, each.request)]
        for recording in recordings:
            if recording not in missing:  # a run that was killed in its last moment may have left something
                SnapshotStore(recording.folder).clear()
                recording.tidy()
        if self.group is not None:
            self.group.of_first([each.file for each in missing])
        if not missing:
            return
        entries = [_entry(recording) for recording in missing]
        self.folder.record(*entries)
        self.session = session = Session(missing, cache(lambda: self._identity(missing)))
        yield from session.run(self.stop, self.folder.rank, self.resume, self.force)
        done = [entry | each.figures | {"complete": True} for entry, each in zip(entries, missing, strict=True)]
        self.folder.record(*done)
        session.clear()

    def _follow(self, recordings: Sequence[VideoRecorder]) -> Generator[VideoRollout]:
        """The same in a process that does not write."""
        assert self.group is not None
        files = self.group.of_first()
        if missing := [each for each in recordings if each.file in files]:
            self.session = Follower(missing, self.group)
            yield from self.session.run(self.stop)

    def _identity(self, recordings: Sequence[VideoRecorder]) -> dict[str, Any]:
        """What the pixels of videos depend on."""
        if not self.weights:
            self.weights = {"backbone": fingerprint(self.pipeline.backbone), "codec": fingerprint(self.pipeline.codec)}
            if self.pipeline.finish is not None:
                self.weights["finish"] = fingerprint(self.pipeline.finish)
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
    """The manifest's entry for a video that does not exist yet."""
    pipeline, request = recording.pipeline, recording.request
    return {
        "file": recording.file.name,
        **request.content,
        "sample": request.sample,
        "policy": type(recording.policy).__name__,
        "noise": type(pipeline.noise).__name__,
        "fps": pipeline.fps,
        "size": [edge * recording.scale for edge in pipeline.finished_size],
        "complete": False,
    }
