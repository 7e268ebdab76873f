"""Reads what VBench answered: a number for each dimension and the videos it is made of, or a sentence."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.errors import UserError
from rollforge.files.reading import MANIFEST, read_json
from rollforge_vbench.dimensions import dimension

FIXES = {
    "install": "install VBench there (README of rollforge-vbench), or name another --vbench.python or --vbench.repo",
    "numpy": "make an environment for VBench alone (README of rollforge-vbench)",
    "prompt": "map files to VBench's own prompts by --prompts, or use --mode custom",
}


@dataclass(frozen=True)
class Scored:
    """A dimension's number and its videos as VBench lists them."""

    score: float
    videos: list[dict[str, Any]]

    @classmethod
    def of(cls, name: str, answer: Any) -> Scored:
        """What VBench wrote of a dimension: ``[score, [{"video_path": ..., "video_results": ...}, ...]]``.

        Raises:
            UserError: for another shape, for what is not a number, and for a score of no video.
        """
        if not isinstance(answer, list) or len(answer) < 2 or not isinstance(answer[1], list):
            raise UserError(f"VBench's result for {name} is not a score and a list of videos; is this its own file?")
        score, videos = answer[0], answer[1]
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise UserError(f"VBench's score of {name} is {score!r}, not a number; see its log for what went wrong.")
        if not videos:
            raise UserError(f"VBench scored {name} on no video at all, so its {score:g} says nothing; see its log.")
        return cls(float(score), [video if isinstance(video, dict) else {"video": video} for video in videos])


def failure(result: Mapping[str, Any], asked: Iterable[str], log: Path) -> str | None:
    """One sentence on what went wrong; nothing where all that was asked is there."""
    missing = [name for name in asked if name not in result["dimensions"]]
    error = result.get("error")
    if error:
        at = f" in {error['at']}" if error.get("at") else ""
        fix = FIXES.get(error["kind"], f"see {log}")
        lost = f", so that {', '.join(missing)} are missing" if error.get("at") else ""
        return f"VBench failed{at}{lost}: {error['message']}; {fix}."
    return f"VBench left out {', '.join(missing)}; see {log}." if missing else None


def covered(name: str, scored: Scored, videos: Iterable[Mapping[str, Any]]) -> None:
    """Raises ``UserError`` where VBench has scored other videos than it was given (custom videos: each of them)."""
    places = [os.path.normpath(str(entry.get("video_path", ""))) for entry in scored.videos]
    seen = {part for place in places for part in (Path(place).stem, Path(place).parent.name)}
    lost = [video["name"] for video in videos if video["name"] not in seen]
    if lost and any(place != "." for place in places):
        raise UserError(f"VBench's score of {name} leaves out {', '.join(lost)}; see its log.")


def read_raw(files: Iterable[Path]) -> dict[str, float]:
    """Raw numbers by dimension, out of result files of VBench, of ``score``, or ``{"dimension": number}``.

    Raises:
        UserError: for a file of another kind, and where two files say different things of a dimension.
    """
    raw: dict[str, float] = {}
    for file in files:
        for name, value in _entries(file).items():
            key = dimension(name)
            number = value if isinstance(value, (int, float)) else Scored.of(name, value).score
            if raw.setdefault(key, float(number)) != number:
                raise UserError(f"{file} says {number:g} of {key}, another file {raw[key]:g}; name one of them.")
    return raw


def _entries(file: Path) -> dict[str, Any]:
    content = read_json(file, MANIFEST, "result file")
    if isinstance(content, dict) and isinstance(content.get("scores"), dict):
        if not content.get("complete"):
            raise UserError(f"{file} is what a failed scoring has left; score again, or name another file.")
        return dict(content["scores"])
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} holds no scores; name a result file of VBench or of score.")
    return content
