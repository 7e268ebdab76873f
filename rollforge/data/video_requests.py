"""Requests: one for each prompt, with its length, its seed and its opening."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rollforge.data.opening import read_openings
from rollforge.data.pictures import is_picture
from rollforge.data.requests import Prompt, Request, Shot, read_videos
from rollforge.errors import UserError

log = logging.getLogger(__name__)


def _warn(file: Path, why: str) -> None:
    log.warning("%s Its prompts are left out.", why)


def make_requests(
    prompts: Sequence[Prompt] | str,
    seconds: float,
    fps: float,
    pictures: int = 1,
    *,
    seed: int = 0,
    seeds: int = 1,
    first_prompts: int | None = None,
    opening: str | Path | None = None,
    opening_seconds: float | None = None,
    leave_out: Callable[[Path, str], None] = _warn,
) -> list[Request]:
    """One request for each prompt and seed, those of the first seed first; none for a prompt file that cannot be read.

    Args:
        prompts: one prompt, several, a prompt file or a folder of them, as ``data.prompts``.
        seconds: length of each video, its opening included.
        fps: latent frames per second.
        pictures: pixel frames of each latent frame but the first, which decodes to one.
        seed: of the noise.
        seeds: videos of each prompt: one from each of the seeds ``seed``, ``seed + 1``, ...
        first_prompts: how many prompts are used, from the first on. Default: all.
        opening: an image or a video that every video starts with, or a folder of them.
        opening_seconds: how much of an opening video is taken, of its end.
        leave_out: called with each prompt file that cannot be read, and the reason.

    Raises:
        UserError: without prompts or with fewer than ``first_prompts``, and for prompts, times or openings that
            cannot be used.
    """
    if not prompts:
        raise UserError("There is nothing to generate: give data.prompts one prompt or more.")
    frames = max(1, round(seconds * fps + 1 - 1 / pictures))
    videos = read_videos(prompts, leave_out)
    if first_prompts is not None and first_prompts > len(videos):
        raise UserError(
            f"data.first_prompts is {first_prompts}, and data.prompts holds {len(videos)}; leave it out to use all."
        )
    videos = videos[:first_prompts]
    texts = [" | ".join(shot.prompt for shot in video.shots) for video in videos]
    names = [video.name for video in videos], [text or None for text in texts]
    openings = read_openings(None if opening is None else str(opening), len(videos), names)
    taken = max(1, round(opening_seconds * fps)) if opening_seconds else 0
    requests = []
    for n, (video, text, path) in enumerate(zip(videos, texts, openings, strict=True)):
        if video.shots:
            timed = _timed(video.shots, frames, fps)
            cuts = tuple(start for (start, _), shot in zip(timed, video.shots, strict=False) if shot.cut)
            requests.append(Request(text, n, seed, frames, timed, path, taken, cuts))
    count = len(videos)
    return [each._replace(sample=each.sample + k * count, seed=seed + k) for k in range(seeds) for each in requests]


def _timed(shots: list[Shot], frames: int, fps: float) -> tuple[tuple[int, str], ...]:
    """Shots by latent frame; those without a time share the video evenly. Empty for a single prompt."""
    if len(shots) == 1:
        return ()
    share = frames / len(shots)
    starts = [round(n * share if shot.at is None else shot.at * fps) for n, shot in enumerate(shots)]
    if len(set(starts)) < len(starts) or starts[-1] >= frames:
        raise UserError(
            f"The prompts start at {[shot.at for shot in shots]} s, too close to each other or beyond the end of a "
            f"video of {frames / fps:g} s."
        )
    return tuple((start, shot.prompt) for start, shot in zip(starts, shots, strict=True))


def batches(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Requests to roll together, at most ``size`` at once, none of which changes the video of another.

    They have the same length, seed and times of prompts, and openings of the same length: no openings, images only, or
    the same video.
    """
    alike: dict[object, list[Request]] = {}
    for request in requests:
        alike.setdefault((request.schedule, _opening(request.opening)), []).append(request)
    return [group[n : n + size] for group in alike.values() for n in range(0, len(group), size)]


def _opening(path: Path | None) -> str | None:
    """Equal for openings that are certain to have the same length."""
    return None if path is None else "picture" if is_picture(path) else str(path)
