"""The results of ``test``: the values of all videos, as in ``metrics.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollforge import __version__
from rollforge.evaluation.prompts import Intervals, Video, over_prompts
from rollforge.evaluation.table import table
from rollforge.evaluation.video_result import VideoResult
from rollforge.metrics.interval import Interval


@dataclass
class Evaluation:
    """Measured videos.

    Args:
        videos: with their values.
        horizon_seconds: length of the trained horizon.
        metrics: classes of what measured.
        policy: the cache policy of the videos; those of a second one may follow.
        config_hash: of the config that made them.
        truth: values of ground-truth videos, where a metric has them, over the last horizon of two.
        source: the folder of existing videos.
        block: latent frames of a block of the model, where one is known.
        better: whether ``higher`` or ``lower`` is better, of curves whose metric says so.
    """

    videos: list[VideoResult]
    horizon_seconds: float
    metrics: list[str]
    policy: str | None = None
    config_hash: str | None = None
    truth: Intervals = field(default_factory=dict)
    source: Path | None = None
    block: int | None = None
    better: Mapping[str, str] = field(default_factory=dict)

    @property
    def fps(self) -> float | None:
        """Pixel frames per second, where all videos have the same."""
        rates = {video.entry["fps"] for video in self.videos}
        return rates.pop() if len(rates) == 1 else None

    @property
    def groups(self) -> dict[str, list[VideoResult]]:
        """Videos by policy, the first one first. Those of no known policy are one group."""
        groups: dict[str, list[VideoResult]] = {self.policy or "": []} if self.policy else {}
        for video in self.videos:
            groups.setdefault(video.label or "", []).append(video)
        return {label: own for label, own in groups.items() if own}

    @property
    def failed(self) -> dict[str, str]:
        """Metrics that raised, and what, with the first video in which they did."""
        found: dict[str, str] = {}
        for video in self.videos:
            for metric, error in (video.entry.get("failed_metrics") or {}).items():
                found.setdefault(metric, f"{error}, first in {video.entry['file']}")
        return found

    def to_dict(self) -> dict[str, list[Video]]:
        """The entries of the videos in ``metrics.json``, by policy."""
        return {label: [video.to_dict() for video in own] for label, own in self.groups.items()}

    def document(self) -> dict[str, Any]:
        """``metrics.json``: plain data, null for what is not a number."""
        groups = self.to_dict()
        first, *others = [*groups.items()] or [("", [])]
        content = {
            "rollforge": __version__,
            "config_hash": self.config_hash,
            "fps": self.fps,
            "horizon_seconds": self.horizon_seconds,
            "block": self.block,
            "policy": self.policy,
            "metrics": self.metrics,
            "better": self.better,
            **({"source": str(self.source)} if self.source else {}),
            "truth": self.truth,
            "videos": [video.to_dict() for video in self.videos],
            "over_prompts": over_prompts(first[1]),
            **({"others": {label: over_prompts(own) for label, own in others}} if others else {}),
        }
        plain_content: dict[str, Any] = plain(content)
        return plain_content

    def table(self) -> str:
        """The table for the terminal."""
        return table({label or "videos": own for label, own in self.to_dict().items()}, self.truth)


def plain(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have, and intervals as mappings."""
    if isinstance(value, Interval):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
