"""A process that helps to make a batch of videos which another process writes."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

from rollforge.errors import UserError
from rollforge.parallel import ContextGroup
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout
from rollforge.report.session import finished_latents
from rollforge.report.video_recorder import VideoRecorder
from rollforge.signals import SignalHandler
from rollforge.snapshots.store import SnapshotStore
from rollforge.state import State

log = logging.getLogger(__name__)


class Follower:
    """In place of a ``Session``, in all processes of a video but the first.

    It runs the same rollout and writes no file of the video. With each snapshot of the first process it saves its share
    of the keys and values, before the first process saves the rest.

    Args:
        recordings: one for each video, as in the first process.
        group: the processes of the videos.
    """

    def __init__(self, recordings: Sequence[VideoRecorder], group: ContextGroup) -> None:
        self.recordings, self.group, self.first = recordings, group, recordings[0]
        self.whole = SnapshotStore(self.first.folder, self.first.settings.keep)
        self.store = self.whole.share(group.rank)

    def run(self, stop: SignalHandler) -> Generator[VideoRollout]:
        """Yields the one rollout, from the snapshot that the first process has chosen, if any."""
        self.stop = stop
        requests = [recording.request for recording in self.recordings]
        pipeline, policy = self.first.pipeline, self.first.policy
        if (number := self.group.of_first()) is None:
            self.rollout = VideoRollout(pipeline, requests, policy)
        else:
            take = self._state(number)
            stored = "memories" in take["blocks"]
            finished = iter(()) if stored else finished_latents(self.recordings, take["blocks"]["start"], stop, 1)
            self.rollout = VideoRollout(pipeline, requests, policy, take, finished)
        yield self.rollout

    def add(self, block: VideoBlock) -> None:
        """After a block: saves a share with the first process, and stops with it."""
        self.stop.agree()
        if self.rollout.left and self.group.of_first():
            self.group.highest(self._save())
            self.stop.exit_together()

    def _state(self, number: int) -> State:
        """The snapshot of the first process with this process's share of the memories."""
        take: State = self.whole.read(number).state["take"]
        if "memories" in take["blocks"]:
            take["blocks"] |= self.store.read(number).state
        return take

    def _save(self) -> bool:
        """Saves the share; whether that failed."""
        if self.first.settings.kv != "save":
            return False
        try:
            memories = self.rollout.blocks.state_dict()["memories"]
            self.store.save(self.rollout.made, {"memories": memories}, {})
        except UserError as error:
            log.warning("%s", error)
            return True
        return False
