"""A batch of videos in progress, saved so that a killed run can be resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rollforge.errors import UserError
from rollforge.memory import RolloutMemory
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout
from rollforge.report.progress import Progress
from rollforge.report.video_recorder import VideoRecorder
from rollforge.report.worker import Worker
from rollforge.signals import SignalHandler
from rollforge.snapshots.identity import changes
from rollforge.snapshots.settings import Clock
from rollforge.snapshots.store import SnapshotStore
from rollforge.state import State, cloned

log = logging.getLogger(__name__)

KEYS = ("raw", "held")
"""What of the state of a memory is as large as all keys and values."""


class Session:
    """Runs the rollout of recordings of one policy and one length, as one batch.

    Files, metrics and snapshots are written by a thread of their own while the next block is generated; it is at most a
    few blocks behind.

    Args:
        recordings: one for each video. Snapshots of all are kept with the first.
        identity: what the pixels depend on; a snapshot with another one is refused.
    """

    def __init__(self, recordings: Sequence[VideoRecorder], identity: Callable[[], dict[str, Any]]) -> None:
        self.recordings, self.identity = recordings, identity
        self.first, self.settings = recordings[0], recordings[0].settings
        self.group = self.first.pipeline.group
        self.store = SnapshotStore(self.first.folder, self.settings.keep)
        self.rank = 0
        self.spent, self.saving = 0.0, 0.0  # seconds before the cut; seconds that a snapshot took

    def run(
        self, stop: SignalHandler, rank: int = 0, resume: bool = False, force: bool = False
    ) -> Generator[VideoRollout]:
        """Yields the one rollout, from a snapshot where there is one and ``resume`` says so; then finishes the files.

        The caller iterates over the rollout and hands each of its blocks to ``add``.

        Raises:
            UserError: where a file cannot be written or resumed; finished parts of videos stay playable.
        """
        self.stop, self.rank = stop, rank
        with ExitStack() as open_files:
            state = self._open(open_files, resume and self.first.started, force)
            self.rollout = rollout = self._rollout(state, stop, force)
            if self.group is not None:  # now that latents beyond the snapshot are gone
                self.group.of_first(None if state is None else state["take"]["blocks"]["index"])
            del state  # as large as all keys and values
            self.pace, self.clock = Pace(rollout.made), Clock(self.settings, rollout.made)
            total, done = self.first.sheet.total, self.first.writer.written
            self.worker = open_files.enter_context(Worker())
            with Progress(total, self.first.pipeline.fps, self.first.label, rank, done) as self.progress:
                yield rollout
            self.worker.wait()
            for recording in self.recordings:
                recording.finish()
        passes = rollout.blocks.passes
        for row, recording in enumerate(self.recordings):
            again = {str(block): counts[row] for block, counts in rollout.blocks.attempts.items() if counts[row]}
            recording.figures |= self.pace.figures(self.spent, len(self.recordings))
            recording.figures |= {"retried_blocks": again} if again else {}
            recording.figures |= {"read": {name: count for name, count in passes.read.counts.items() if count}}
            recording.figures |= {"bytes_held": passes.nbytes // len(self.recordings)}

    def add(self, block: VideoBlock) -> None:
        """Records a finished block. Raises ``SystemExit`` after a signal, once it is saved.

        Raises ``UserError`` where an earlier block could not be written.
        """
        self.worker.submit(partial(self._record, block))
        rollout, pace, clock = self.rollout, self.pace, self.clock
        pace.block(block.count)
        self.progress.add(block.count)
        self.stop.due = pace.average + self.saving
        due = self.stop.agree() or clock.due(rollout.made)
        if rollout.left and (due if self.group is None else self.group.of_first(due)):
            self._save(rollout, self.spent + pace.seconds)
            clock.reset(rollout.made)
            if self.stop.asked:
                self.worker.wait()
            self.stop.exit_together()

    def _record(self, block: VideoBlock) -> None:
        rows = zip(self.recordings, block.frames, block.latents, block.measured, strict=True)
        for recording, frames, latents, measured in rows:
            recording.add_block(frames, latents, measured)

    def clear(self) -> None:
        """Removes the snapshots: once the manifest has the videos, since until then they can be resumed."""
        self.store.clear()
        for recording in self.recordings:
            recording.tidy()

    def _open(self, open_files: ExitStack, resume: bool, force: bool) -> State | None:
        """Opens every file, truncated to the newest snapshot that fits all of them. Returns that snapshot."""
        if not resume:
            for recording in self.recordings:
                SnapshotStore(recording.folder).clear()
                recording.settle()
                recording.latents.clear()
                recording.open()
                open_files.callback(recording.writer.abandon)
            return None
        for snapshot in self.store.all():
            if (found := changes(snapshot.identity, self.identity())) and not force:
                raise self._changed(found)
            if why := self._missing(snapshot.state):
                log.warning("The snapshot %s cannot be used: %s", snapshot.path, why)
                continue
            try:
                with ExitStack() as opened:
                    for recording, kept in zip(self.recordings, snapshot.state["videos"], strict=True):
                        recording.open(kept)
                        opened.callback(recording.writer.abandon)
                    open_files.push(opened.pop_all())
                return snapshot.state
            except UserError as error:
                log.warning("The snapshot %s cannot be used: %s", snapshot.path, error)
        raise UserError(
            f"No snapshot of {self.first.file.name} in {self.store.folder} matches the files of the video, as the "
            "warnings say; start over with --overwrite true."
        )

    def _missing(self, state: State) -> str | None:
        """Why a snapshot cannot be used, whatever the files."""
        if len(state["videos"]) != len(self.recordings):
            return f"it is of {len(state['videos'])} videos rolled together, not of {len(self.recordings)}."
        if any(each.keeps_latents and each.latents.frames < _frame(state) for each in self.recordings):
            return "the latents until then are missing; snapshots.kv and snapshots.latents must be what they were."
        return None

    def _rollout(self, state: State | None, stop: SignalHandler, force: bool) -> VideoRollout:
        requests = [recording.request for recording in self.recordings]
        if state is None:
            return VideoRollout(self.first.pipeline, requests, self.first.policy)
        frame = _frame(state)
        for recording in self.recordings:
            recording.latents.truncate(frame)
        self.spent = state["spent"]
        stored = "memories" in state["take"]["blocks"]
        finished = iter(()) if stored else finished_latents(self.recordings, frame, stop, self.rank)
        rollout = VideoRollout(self.first.pipeline, requests, self.first.policy, state["take"], finished)
        if state["texts"] != rollout.condition_ids and not force:
            raise self._changed(["the features of the prompt"])
        return rollout

    def _save(self, rollout: VideoRollout, spent: float) -> None:
        """Saves a snapshot, behind the blocks that are still being recorded."""
        if self.group is not None and self.group.highest(0):
            log.warning(
                "Another process could not save its share; no snapshot was made after block %d.", rollout.made - 1
            )
            return
        try:
            take = rollout.state_dict(self.settings.kv == "save")
        except UserError as error:
            self._not_saved(error, rollout.made)
            return
        self.worker.submit(partial(self._write, rollout.made, _lasting(take), rollout.condition_ids, spent))
        known = all(isinstance(memory, RolloutMemory) for memory in rollout.blocks.passes.memories.values())
        if not known or self.group is not None:  # another memory may write into what it has returned
            self.worker.wait()

    def _write(self, made: int, take: State, texts: list[str], spent: float) -> None:
        """Writes a snapshot. If it cannot be written, a warning says so and the rollout continues."""
        began = time.perf_counter()
        written = [recording.written() for recording in self.recordings]
        try:
            videos = [each | recording.state_dict() for each, recording in zip(written, self.recordings, strict=True)]
            state = {"take": take, "videos": videos, "texts": texts, "spent": spent}
            self.store.save(made, state, self.identity())
        except UserError as error:
            self._not_saved(error, made)
        self.saving = time.perf_counter() - began

    def _not_saved(self, error: UserError, made: int) -> None:
        log.warning("%s No snapshot was made after block %d; those before stay.", error, made - 1)

    def _changed(self, found: list[str]) -> UserError:
        return UserError(
            f"{self.first.file.name} cannot resume from {self.store.folder}, since something has changed: "
            f"{'; '.join(found)}; undo the change, start over with --overwrite true, or add --force to continue "
            "anyway."
        )


def finished_latents(
    recordings: Sequence[VideoRecorder], frame: int, stop: SignalHandler, rank: int
) -> Iterator[Tensor]:
    """Kept latents up to a frame, with the time left; stops at a signal: the snapshot stays as good as it is."""
    blocks = zip(*(recording.latents.read(frame) for recording in recordings), strict=True)
    total = -(-frame // recordings[0].pipeline.backbone.spec.block)
    for together in tqdm(blocks, "finished blocks again", total, unit=" block", disable=rank > 0, leave=False):
        stop.exit_together()
        yield torch.cat(together)


def _lasting(take: State) -> State:
    """A state that does not change with later blocks. Keys and values are shared: a memory writes into none of them."""
    blocks = dict(take["blocks"])
    memories = blocks.pop("memories", None)
    kept: State = cloned(take | {"blocks": blocks})
    if memories is not None:
        kept["blocks"]["memories"] = {
            branch: cloned({name: each for name, each in memory.items() if name not in KEYS})
            | {name: memory[name] for name in KEYS if name in memory}
            for branch, memory in memories.items()
        }
    return kept


def _frame(state: State) -> int:
    start: int = state["take"]["blocks"]["start"]
    return start


class Pace:
    """Wall time of a rollout, the first block apart."""

    def __init__(self, made: int) -> None:
        self.start = self.last = time.perf_counter()
        self.first: float | None = None
        self.resumed = made > 0
        self.frames, self.blocks = 0, 0

    def block(self, frames: int) -> None:
        self.last = time.perf_counter()
        self.blocks += 1
        if self.first is None:
            self.first = self.last
        else:
            self.frames += frames

    @property
    def seconds(self) -> float:
        """Since the start, or the interruption."""
        return self.last - self.start

    @property
    def average(self) -> float:
        """Seconds that a block takes."""
        return self.seconds / max(1, self.blocks)

    def figures(self, before: float, together: int) -> dict[str, Any]:
        """For the manifest; ``before`` is the time before an interruption, ``together`` the videos of the batch."""
        first = self.first or self.last
        steady = self.frames / (self.last - first) if self.frames else None
        return {
            "wall_seconds": round(before + self.seconds, 3),
            "first_block_seconds": None if self.resumed else round(first - self.start, 3),
            "steady_fps": round(steady, 2) if steady else None,
            "rolled_together": together,
        }
