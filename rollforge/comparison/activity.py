"""What each point cost, and how many of its blocks read what a plain window does not."""

from __future__ import annotations

from rollforge.comparison.run_result import Comparison, RunResult, number
from rollforge.metrics.interval import interval


def markdown(comparison: Comparison) -> str:
    """One row for each point; empty where no run has counted."""
    counted = [name for point in comparison.measured for name in _counts(point)]
    names = [name for name in dict.fromkeys(counted) if name != "blocks"]
    if not counted:
        return ""
    head = ["point", "seconds per block", "MB held", "blocks", *names]
    lines = [head, ["---"] * len(head), *(_row(point, names) for point in comparison.measured)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"Cost of one video, and blocks that read what a plain window does not:\n\n{table}"


def _row(point: RunResult, names: list[str]) -> list[str]:
    videos = list(point.videos.values())
    blocks = _counts(point).get("blocks", 0.0)
    seconds = interval(
        number(video.get("wall_seconds"))
        / max(1.0, number((video.get("read") or {}).get("blocks")) * number(video.get("rolled_together") or 1))
        for video in videos
    ).mean
    held = interval(number(video.get("bytes_held")) / 1e6 for video in videos).mean
    cells = [f"{seconds:.3g}", f"{held:.3g}", f"{blocks:g}", *(f"{_counts(point).get(name, 0):g}" for name in names)]
    return [point.label.replace("|", "\\|"), *cells]


def _counts(point: RunResult) -> dict[str, float]:
    """The counts of its videos, their mean."""
    found: dict[str, list[float]] = {}
    for video in point.videos.values():
        for name, count in (video.get("read") or {}).items():
            found.setdefault(str(name), []).append(number(count))
    return {name: sum(counts) / len(point.videos) for name, counts in found.items()}
