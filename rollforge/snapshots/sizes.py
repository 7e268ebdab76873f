"""How large snapshots are, what they keep, and what a run puts on the disk in addition to its videos."""

from __future__ import annotations

import math
from dataclasses import replace

from rollforge.budget.decoder import footprint
from rollforge.budget.lines import frame_bytes, held_by, raw_frame_bytes
from rollforge.budget.memory_input import MemoryInput
from rollforge.samplers.base import Sampler
from rollforge.snapshots.settings import Snapshots

LARGE = 10**9
"""Bytes of a snapshot above which ``kv: auto`` leaves keys and values out."""


def decided(settings: Snapshots, work: MemoryInput, sampler: Sampler) -> Snapshots:
    """The settings with ``kv: auto`` replaced by what it means for these videos.

    It is ``recompute`` where a snapshot with keys and values would be larger than ``LARGE`` and committing the latents
    again restores the state of all policies and of the sampler, else ``save``.
    """
    if settings.kv != "auto":
        return settings
    saved = replace(settings, kv="save")
    able = sampler.recomputes and all(policy.recomputes for policy in work.policies.values())
    return replace(settings, kv="recompute") if able and snapshot_bytes(work, saved) > LARGE else saved


def snapshot_bytes(work: MemoryInput, settings: Snapshots) -> int:
    """Bytes of one snapshot of the videos that are rolled together, under ``decided`` settings.

    The latents of its unfinished block, the frames that wait for the encoder and the contact sheet, all of them small
    in addition to keys and values, are not counted.
    """
    decoding = footprint(work.decoding.codec, work.spec, work.decoding.dtype, work.decoding.tile)
    size = decoding.state if decoding else 0
    if settings.kv == "save":
        frame = frame_bytes(work.spec, work.computing)
        raw_frame = raw_frame_bytes(work.spec, work.computing, work.kv_codec)
        saved = [held_by(work, policy).saved for policy in work.policies.values()]
        size += work.branches * max(raw * raw_frame + bare * frame for raw, bare in saved)
    return work.batch * size


def snapshots_bytes(work: MemoryInput, settings: Snapshots, seconds: float | None = None) -> int:
    """Bytes of all snapshots that lie on the disk at once: those that are kept, and one that is being written.

    ``seconds`` is how long a video takes to roll, if that is known: one that is finished before the first snapshot is
    due has at most the one that a signal makes.
    """
    unfinished = max(0, math.ceil(work.frames / work.spec.block) - 1)
    due = [settings.every_blocks is not None and settings.every_blocks <= unfinished]
    due += [settings.every_seconds is not None and (seconds is None or seconds >= settings.every_seconds)]
    return min(unfinished, settings.keep + 1 if any(due) else 1) * snapshot_bytes(work, settings)


def latents_bytes(work: MemoryInput, settings: Snapshots, videos: int) -> int:
    """Bytes of the latents that are kept: of all ``videos``, or of those in progress for ``kv: recompute``."""
    kept = videos if settings.latents else work.batch if settings.kv == "recompute" else 0
    return kept * work.frames * math.prod(work.spec.latent_shape) * 4
