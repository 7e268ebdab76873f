"""What a rollout needs to resume after a kill: its state, its finished latents, and what both belong to."""

from rollforge.snapshots.identity import changes, fingerprint, versions
from rollforge.snapshots.latents import LatentStore
from rollforge.snapshots.packing import pack, unpack
from rollforge.snapshots.store import Snapshot, SnapshotStore

__all__ = ["LatentStore", "Snapshot", "SnapshotStore", "changes", "fingerprint", "pack", "unpack", "versions"]
