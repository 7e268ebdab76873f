"""VBench's 16 dimensions: published ranges and weights, and the scores made of them.

Ranges and weights are those of VBench's own scripts (``scripts/constant.py``). Its script counts a dimension that is
missing as 0; here that is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rollforge.errors import UserError, nearest

QUALITY = {  # smallest and largest raw value, weight
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "temporal_flickering": (0.6293, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
}
SEMANTIC = {
    "object_class": (0.0, 1.0, 1.0),
    "multiple_objects": (0.0, 1.0, 1.0),
    "human_action": (0.0, 1.0, 1.0),
    "color": (0.0, 1.0, 1.0),
    "spatial_relationship": (0.0, 1.0, 1.0),
    "scene": (0.0, 0.8222, 1.0),
    "appearance_style": (0.0009, 0.2855, 1.0),
    "temporal_style": (0.0, 0.364, 1.0),
    "overall_consistency": (0.0, 0.364, 1.0),
}
GROUPS = {"quality": QUALITY, "semantic": SEMANTIC}
ALL = QUALITY | SEMANTIC
CONSISTENCY = ("subject_consistency", "background_consistency")  # those with a long-range branch in VBench-Long
CUSTOM = (*CONSISTENCY, "motion_smoothness", "dynamic_degree", "aesthetic_quality", "imaging_quality")  # for any video
QUALITY_SHARE = 4  # quality counts four times as much as semantic


@dataclass(frozen=True)
class Aggregate:
    """The vector, and what may be said in one number.

    Args:
        raw: VBench's own numbers, by dimension.
        normalised: the same after ``(x - min) / (max - min)``; not clipped, as in VBench's script.
        missing: dimensions without a number.
        scores: ``quality``, ``semantic``, ``total`` and ``raw_mean``, each only where nothing of it is missing; else
            ``partial_quality`` and ``partial_semantic``, the weighted means of what is there.
    """

    raw: dict[str, float]
    normalised: dict[str, float]
    missing: tuple[str, ...]
    scores: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        vector = {"raw": self.raw, "normalised": self.normalised, "missing": list(self.missing)}
        return {name: round(value, 6) for name, value in self.scores.items()} | vector


def aggregate(raw: Mapping[str, float], partial: bool = False) -> Aggregate:
    """Quality, semantic and total score of raw numbers by dimension.

    Raises:
        UserError: for a name that is no dimension, a number outside 0..1, and, unless ``partial``, for dimensions that
            are missing.
    """
    vector = {dimension(name): value for name, value in raw.items()}
    for name, value in vector.items():
        if not math.isfinite(value) or not 0 <= value <= 1:
            raise UserError(f"{name} is {value}, and VBench's raw numbers lie in 0..1; give shares, not percentages.")
    missing = tuple(name for name in ALL if name not in vector)
    if missing and not partial:
        raise UserError(
            f"There is no total score: {len(missing)} of VBench's 16 dimensions are missing ({', '.join(missing)}); "
            "score these too, or ask with --partial for what there is, under a name that says so."
        )
    normalised = {name: (vector[name] - ALL[name][0]) / (ALL[name][1] - ALL[name][0]) for name in ALL if name in vector}
    scores: dict[str, float] = {}
    for group, members in GROUPS.items():
        there = [name for name in members if name in vector]
        if there:
            weight = sum(members[name][2] for name in there)
            mean = sum(normalised[name] * members[name][2] for name in there) / weight
            scores[group if len(there) == len(members) else f"partial_{group}"] = mean
    if not missing:
        scores["total"] = (QUALITY_SHARE * scores["quality"] + scores["semantic"]) / (QUALITY_SHARE + 1)
        scores["raw_mean"] = sum(vector.values()) / len(vector)
    return Aggregate({name: vector[name] for name in ALL if name in vector}, normalised, missing, scores)


def dimension(name: str) -> str:
    """The dimension of that name, with spaces or underscores. Raises ``UserError`` where there is none."""
    plain = name.strip().lower().replace(" ", "_")
    if plain not in ALL:
        raise UserError(f"VBench has no dimension {name!r}.{nearest(plain, ALL)} Dimensions: {', '.join(ALL)}.")
    return plain


def table(result: Aggregate) -> str:
    """The vector as Markdown, with the scores under it: never one without the other."""
    lines = ["| dimension | raw | normalised | weight |", "|---|---|---|---|"]
    for name, (_, _, weight) in ALL.items():
        if name in result.raw:
            lines.append(f"| {name} | {result.raw[name]:.4f} | {result.normalised[name]:.4f} | {weight:g} |")
        else:
            lines.append(f"| {name} | missing | | {weight:g} |")
    return "\n".join([*lines, "", *(f"{name}: {_shown(name, value, result)}" for name, value in result.scores.items())])


def _shown(name: str, value: float, result: Aggregate) -> str:
    """A score in per cent as the leaderboard has it; a partial one says of how many."""
    if name == "raw_mean":
        return f"{value:.4f} (mean of the 16 raw numbers)"
    text = f"{100 * value:.2f}"
    if not name.startswith("partial_"):
        return text
    members: Iterable[str] = GROUPS[name.removeprefix("partial_")]
    there = [member for member in members if member in result.raw]
    return f"{text} (of {', '.join(there)} only: not comparable with published scores)"
