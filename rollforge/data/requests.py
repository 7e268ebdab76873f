"""What to roll: prompts from a config, a text file or a folder, each perhaps with other prompts that follow in time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rollforge.errors import UserError
from rollforge.files import content_id
from rollforge.safe_files import listed, read_text

Prompt = str | list[dict[str, Any]]
"""One prompt for the whole video, or several: ``[{prompt: ...}, {at: 30s, prompt: ...}]``."""

FILE_SIZE, MOST = 10_000_000, 100_000  # bytes of a prompt file; prompts in all
SHAPE = "expected `- at: 30s` and `prompt: ...` for each prompt after the first"


CONTENT = ("prompt", "prompts", "opening", "seed", "latent_frames")
"""Keys of ``Request.content``; it leaves out what a request does not have."""


class Shot(NamedTuple):
    """A prompt and the second from which on it is in force; None where times were left out, to be shared out evenly."""

    prompt: str
    at: float | None


class Request(NamedTuple):
    """One video to make.

    Args:
        prompt: what it shows; where prompts follow each other, all of them.
        sample: its number, which with the seed decides its noise.
        seed: of its noise.
        frames: latent frames, those of the opening included.
        shots: ``(latent frame, prompt)``, in order, the first at 0; empty where there is but one prompt.
        opening: an image or video that it starts with.
        opening_frames: latent frames taken of the opening's end, at most; 0 for as many as one block leaves of the
            trained horizon.
    """

    prompt: str
    sample: int
    seed: int
    frames: int
    shots: tuple[tuple[int, str], ...] = ()
    opening: Path | None = None
    opening_frames: int = 0

    @property
    def prompts(self) -> dict[int, str]:
        """Prompts by the latent frame from which on they are in force."""
        return dict(self.shots) or {0: self.prompt}

    def prompt_at(self, frame: int) -> str:
        """The prompt in force at a latent frame."""
        return self.prompts[max(start for start in self.prompts if start <= frame)]

    @property
    def schedule(self) -> tuple[int, int, tuple[int, ...]]:
        """Length, seed and the frames at which prompts start: equal among requests that are rolled together."""
        return self.frames, self.seed, tuple(sorted(self.prompts))

    @property
    def content(self) -> dict[str, Any]:
        """All that tells this video from others of the same model, under ``CONTENT``, as plain data."""
        told: dict[str, Any] = {"prompt": self.prompt, "seed": self.seed, "latent_frames": self.frames}
        if self.shots:
            told["prompts"] = [[start, prompt] for start, prompt in self.shots]
        if self.opening:
            told["opening"] = [content_id(self.opening), self.opening_frames]
        return told


def read_prompts(prompts: Sequence[Prompt] | str | Path) -> list[list[Shot]]:
    """The shots of each video, from a list, a text or JSON-lines file, or a folder of either.

    A text file holds one prompt on each line; a line of a ``.jsonl`` file is ``{"prompt": ...}`` or
    ``{"prompts": [...]}`` (as LongLive ships them), whose members are texts or ``{"at": "30s", "prompt": ...}``.

    Raises:
        UserError: for a file that is missing, empty or unreadable, an empty prompt, or times that do not rise.
    """
    if not isinstance(prompts, str | Path):
        return [_shots(prompt, "data.prompts") for prompt in prompts]
    path = Path(prompts)
    if os.path.isdir(path):  # pathlib raises for a prompt that is longer than a name can be
        files = listed(path, (".txt", ".jsonl"), "prompt file")
        if not files:
            raise UserError(f"{path} holds no .txt or .jsonl file; a prompt folder has prompts in such files.")
        return _limited((shots for file in files for shots in _file(file)), path)
    if os.path.isfile(path):
        return _limited(_file(path), path)
    if path.suffix in (".txt", ".jsonl") or "/" in str(prompts):
        raise UserError(f"There is no prompt file or folder {path}.")
    return [_shots(str(prompts), "data.prompts")]


def seconds(text: str | float) -> float:
    """``30``, ``30s``, ``1m30s`` or ``1:30`` in seconds. Raises ``UserError`` for anything else."""
    found = re.fullmatch(r"(?:(\d+)(?:m|:))?(?:(\d+(?:\.\d+)?)s?)?", str(text).strip())
    if not found or found.group(0) == "":
        raise UserError(f"{text!r} is not a time; write 30s, 1m30s or 1:30.")
    return 60.0 * float(found[1] or 0) + float(found[2] or 0)


def _file(path: Path) -> list[list[Shot]]:
    text = read_text(path, FILE_SIZE, "prompt file")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"The prompt file {path} is empty; write one prompt on each line.")
    if path.suffix != ".jsonl":
        return [_shots(line, str(path)) for line in lines]
    return [_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _json(line: str, where: str) -> list[Shot]:
    try:
        content = json.loads(line)
        told = content["prompts"] if "prompts" in content else content["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'{where}: expected {{"prompt": "..."}} or {{"prompts": ["...", "..."]}}.') from error
    listed = told if isinstance(told, list) else [told]
    return _shots([each if isinstance(each, dict) else {"prompt": each} for each in listed], where, even=True)


def _shots(told: Prompt, where: str, even: bool = False) -> list[Shot]:
    """Checks and reads the prompts of one video; ``even`` lets times be left out."""
    if isinstance(told, str):
        told = [{"prompt": told}]
    if not isinstance(told, list) or not told:
        raise UserError(f"{where} has {told!r:.200}; {SHAPE}.")
    shots = [_shot(each, where, first=n == 0, even=even) for n, each in enumerate(told)]
    times = [shot.at for shot in shots if shot.at is not None]
    if times != sorted(set(times)) or times[:1] not in ([], [0.0]) or (1 < len(times) != len(shots)):
        raise UserError(f"{where}: the times of the prompts must start at 0 and rise, not {times}.")
    return shots


def _shot(each: Any, where: str, first: bool, even: bool) -> Shot:
    if not isinstance(each, dict) or not {"prompt"} <= each.keys() <= {"prompt", "at"}:
        raise UserError(f"{where} has {each!r:.200}; {SHAPE}.")
    if not isinstance(each["prompt"], str):
        raise UserError(f"{where} has {each['prompt']!r:.200} where a prompt was expected; write it as text.")
    prompt = each["prompt"].strip()
    if not prompt:
        raise UserError(f"{where} has an empty prompt; give one sentence for each video.")
    if "at" not in each and not first and not even:
        raise UserError(f"{where}: the prompt {prompt!r:.200} follows another and says no time; {SHAPE}.")
    return Shot(prompt, seconds(each["at"]) if "at" in each else 0.0 if first else None)


def _limited(videos: Iterable[list[Shot]], path: Path) -> list[list[Shot]]:
    """All of them. Raises ``UserError`` for more than anyone rolls at once."""
    taken = list(islice(videos, MOST + 1))
    if len(taken) > MOST:
        raise UserError(f"{path} holds more than {MOST:,} prompts; split it.")
    return taken
