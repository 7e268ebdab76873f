"""Puts videos where VBench looks for them, under names that it takes apart rightly.

Facts, read in its code: it groups clips by what stands before the first ``_``; the standard suite wants
``<prompt>-<n>.mp4``; it takes the suffix of the first file it lists; it goes on with clips, and with frames taken from
them, that an earlier call has left. Hence names without underscores, and a folder that holds nothing else and is new.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rollforge.errors import UserError
from rollforge_vbench.clips import LONG_SECONDS, SECONDS, cut, ranges
from rollforge_vbench.dimensions import ALL
from rollforge_vbench.job import Job
from rollforge_vbench.sources import Source

PREPARED = "prepared.json"
VIDEOS = "videos"
CLIPS = "split_clip"  # VBench-Long's name
LENGTHS = "clip-lengths.yaml"
SPOILING = (CLIPS, "filtered_videos")  # VBench-Long splits paths at these words


def prepare(videos: Sequence[Source], job: Job, folder: Path) -> dict[str, Any]:
    """Copies (and cuts) the videos into ``folder/videos`` and says in ``folder/prepared.json`` what is what.

    Returns:
        The content of ``prepared.json``.

    Raises:
        UserError: for prompts that cannot be file names, and for a folder that is in use.
    """
    notes = job.check(videos)
    titles = _suite_names(videos) if job.mode == "standard" else _plain_names(videos)
    _claim(folder)
    records = []
    for video, name in zip(videos, titles, strict=True):
        shutil.copyfile(video.path, folder / VIDEOS / f"{name}{video.path.suffix}")
        record = {"name": name, "file": f"{name}{video.path.suffix}"} | video.record()
        if job.long and (job.cut or job.clip_seconds or job.mode == "custom"):
            seconds = job.clip_seconds or SECONDS
            record["clips"] = len(ranges(video.info.frames, video.info.fps, seconds))
            if job.cut:
                cut(video.path, video.info, seconds, folder / VIDEOS / CLIPS / name, name)
        records.append(record)
    if job.long:
        lengths = {name: float(job.clip_seconds or LONG_SECONDS.get(name, SECONDS)) for name in ALL}
        (folder / LENGTHS).write_text("".join(f"{name}: {length}\n" for name, length in lengths.items()))
    content = {"job": asdict(job), "mode": job.vbench_mode, "videos": records, "notes": notes}
    (folder / PREPARED).write_text(json.dumps(content, indent=2) + "\n")
    return content


def _claim(folder: Path) -> None:
    """Makes the folder, in place of one that was made here before."""
    if any(word in str(folder.resolve()) for word in SPOILING):
        raise UserError(
            f"VBench-Long takes paths apart at {' and '.join(SPOILING)}; choose another folder than {folder}."
        )
    if folder.exists() and any(folder.iterdir()):
        if not (folder / VIDEOS).is_dir() or not (folder / ".rollforge-vbench").exists():
            raise UserError(f"{folder} holds other files; VBench needs a folder for itself, so name a new one.")
        shutil.rmtree(folder)
    try:
        (folder / VIDEOS).mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another.") from error
    (folder / ".rollforge-vbench").touch()


def _plain_names(videos: Sequence[Source]) -> list[str]:
    """Numbered names of lower-case letters, digits and hyphens."""
    names = []
    for number, video in enumerate(videos):
        words = re.sub(r"[^a-z0-9]+", "-", video.prompt.lower()).strip("-")[:60].rstrip("-")
        names.append(f"{number:04d}-{words or 'video'}")
    return names


def _suite_names(videos: Sequence[Source]) -> list[str]:
    """``<prompt>-<n>``, n counting the videos of a prompt in the order of their seeds and samples."""
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for index, video in enumerate(videos):
        prompt = video.prompt
        if "_" in prompt or "/" in prompt or not prompt.strip() or len(prompt.encode()) > 240:
            raise UserError(
                f"The prompt {prompt[:60]!r} cannot be a file name of VBench's standard suite (no '_' or '/', at most "
                "240 bytes); map files to VBench's own prompts by --prompts, or use --mode custom."
            )
        by_prompt[prompt].append(index)
    names = [""] * len(videos)
    for prompt, indices in by_prompt.items():
        order = sorted(indices, key=lambda i: (videos[i].made.get("seed", 0), videos[i].made.get("sample", 0), i))
        for number, index in enumerate(order):
            names[index] = f"{prompt}-{number}"
    return names
