"""The identity of a run, shown with its figures: of which frames they are, how these were made, and what was active."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Any, NamedTuple, Self

from rollforge.rollout.read_counts import FEATURES

UNKNOWN = "-"


class RunIdentity(NamedTuple):
    """The identity of the videos of one run.

    Attributes:
        frames: MD5 over the MD5s of the videos' frames before encoding, in the order of their samples.
        noise: the noise prior, the seeds and the samples: the address of all noise.
        commit: of rollforge.
        policy: class of the policy.
        blocks: blocks of a video.
        active: of these, how many read what a plain window does not, by ``FEATURES``; means over videos.
    """

    frames: str
    noise: str
    commit: str
    policy: str
    blocks: float
    active: Mapping[str, float]

    @classmethod
    def of(cls, videos: Sequence[Mapping[str, Any]]) -> Self:
        """Of entries as in ``manifest.json``; what an earlier version did not note is a dash."""
        ordered = sorted(videos, key=lambda video: int(video.get("sample") or 0))
        known = [str(video["md5"]) for video in ordered if video.get("md5")]
        frames = md5(json.dumps(known).encode(), usedforsecurity=False).hexdigest()
        seeds = _each(ordered, "seed")
        samples = [int(video.get("sample") or 0) for video in ordered]
        noise = UNKNOWN
        if samples:
            places = f"samples {samples[0]} to {samples[-1]}" if len(samples) > 1 else f"sample {samples[0]}"
            noise = f"{_each(ordered, 'noise')}, seed {seeds}, {places}"
        counts = {
            name: sum(float((video.get("read") or {}).get(name, 0)) for video in ordered) / max(1, len(ordered))
            for name in FEATURES
        }
        return cls(
            frames if known and len(known) == len(ordered) else UNKNOWN, noise, _each(ordered, "commit"),
            _each(ordered, "policy"), counts.pop("blocks"), {name: count for name, count in counts.items() if count},
        )  # fmt: skip

    @property
    def short(self) -> str:
        """The first digits of the MD5, for a column."""
        return self.frames[:8]

    @property
    def activity(self) -> str:
        """What was active, in words."""
        counts = ", ".join(f"{name} {count:g}" for name, count in self.active.items())
        return f"{counts or 'none'} of {self.blocks:g}" if self.blocks else UNKNOWN

    def __str__(self) -> str:
        return (
            f"{self.policy}; frames {self.frames}; {self.noise}; commit {self.commit[:12]}; blocks that read what a "
            f"plain window does not: {self.activity}"
        )


def _each(videos: Sequence[Mapping[str, Any]], key: str) -> str:
    """Every value that videos have under a key."""
    return ", ".join(dict.fromkeys(str(video[key]) for video in videos if video.get(key) is not None)) or UNKNOWN
