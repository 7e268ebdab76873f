"""What to roll: prompts from a config, a text file or a folder, each perhaps with other prompts that follow in time."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rollforge.data.prompt_files import SUFFIXES, count, read_file
from rollforge.errors import UserError
from rollforge.files.reading import listed
from rollforge.files.writing import content_id

log = logging.getLogger(__name__)

Prompt = str | int | float | bool | dict[str, Any] | list[Any] | None
"""One prompt for the whole video, or several: ``[{prompt: ...}, {at: 30s, prompt: ...}]``.

Numbers and the like are not prompts; the type has them so that ``read_prompts`` can explain how to fix them.
"""

MOST = 100_000  # prompts in all
CUT = "expected true or false, and true only for prompts after the first"
SHAPE = "expected `- at: 30s` and `prompt: ...` for each prompt after the first"


CONTENT = ("prompt", "prompts", "cuts", "opening", "seed", "latent_frames")
"""Keys of ``Request.content``; it leaves out what a request does not have."""


class Shot(NamedTuple):
    """A prompt and the second from which on it is in force; None where times were left out, to be shared out evenly.

    ``cut``: whether a new scene starts there.
    """

    prompt: str
    at: float | None
    cut: bool = False


class Request(NamedTuple):
    """One video to make.

    Attributes:
        prompt: the prompt; where several follow each other, all of them.
        sample: its number, which with the seed decides its noise.
        seed: of its noise.
        frames: latent frames, those of the opening included.
        shots: ``(latent frame, prompt)``, in order, the first at 0; empty where there is but one prompt.
        opening: an image or video that it starts with.
        opening_frames: latent frames taken of the opening's end, at most; 0 for as many as one block leaves of the
            trained horizon.
        cuts: the latent frames at which the scene is cut.
    """

    prompt: str
    sample: int
    seed: int
    frames: int
    shots: tuple[tuple[int, str], ...] = ()
    opening: Path | None = None
    opening_frames: int = 0
    cuts: tuple[int, ...] = ()

    @property
    def prompts(self) -> dict[int, str]:
        """Prompts by the latent frame from which on they are in force."""
        return dict(self.shots) or {0: self.prompt}

    def prompt_at(self, frame: int) -> str:
        """The prompt in force at a latent frame."""
        return self.prompts[max(start for start in self.prompts if start <= frame)]

    @property
    def schedule(self) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """Length, seed, the frames at which prompts start, and the cuts: equal among requests rolled together."""
        return self.frames, self.seed, tuple(sorted(self.prompts)), self.cuts

    def switched(self, frame: int, prompt: str, cut: bool = False) -> Request:
        """The same video with another prompt in force from ``frame`` on, until the next one, perhaps in a new scene."""
        prompts = self.prompts | {frame: prompt}
        shots = tuple(sorted(prompts.items()))
        cuts = tuple(sorted({*self.cuts, frame})) if cut and frame else self.cuts
        return self._replace(
            prompt=" | ".join(text for _, text in shots), shots=shots if len(shots) > 1 else (), cuts=cuts
        )

    @property
    def content(self) -> dict[str, Any]:
        """All that distinguishes this video from others of the same model, under ``CONTENT``, as plain data."""
        entry: dict[str, Any] = {"prompt": self.prompt, "seed": self.seed, "latent_frames": self.frames}
        if self.shots:
            entry["prompts"] = [[start, prompt] for start, prompt in self.shots]
        if self.cuts:
            entry["cuts"] = list(self.cuts)
        if self.opening:
            entry["opening"] = [content_id(self.opening), self.opening_frames]
        return entry


Warn = Callable[[Path, str], None]


def _warn(file: Path, why: str) -> None:
    log.warning("%s Its prompts are left out.", why)


class Video(NamedTuple):
    """The prompts of one video: none where its file cannot be read, which leaves the numbers of the others as they are.

    ``name`` is that of its file, where a folder has a file for each video, or empty.
    """

    shots: list[Shot]
    name: str = ""


def read_prompts(prompts: Sequence[Prompt] | str | Path) -> list[list[Shot]]:
    """The shots of each video, from a list, one prompt, a prompt file, or a folder of them.

    For files see ``prompt_files``. What is not a file or folder is a prompt, unless it can only be meant as a path.

    Raises:
        UserError: for a file that is missing, empty or unreadable, an empty prompt, or times that do not rise.
    """
    return [video.shots for video in read_videos(prompts) if video.shots]


def read_videos(prompts: Sequence[Prompt] | str | Path, warn: Warn = _warn) -> list[Video]:
    """The prompts of each video, and of a folder those that are left out, without any.

    ``warn`` is called with each file of a folder that cannot be read, and the reason. For the rest see
    ``read_prompts``.
    """
    if not isinstance(prompts, str | Path):
        return [Video(_shots(prompt, "data.prompts")) for prompt in prompts]
    path = Path(os.path.expanduser(prompts))
    if os.path.isdir(path):  # pathlib raises for a prompt that is longer than a name can be
        return _limited(_folder(path, warn), path)
    if os.path.isfile(path):
        _check_name(path)
        return _limited(_file(path), path)
    if os.path.exists(path) or _means_path(str(prompts)):
        raise UserError(f"There is no prompt file or folder {path}; a prompt that looks like one goes into a list.")
    return [Video(_shots(str(prompts), "data.prompts"))]


def _means_path(text: str) -> bool:
    """Whether a text that is not a file is meant as a path, and not as a prompt with a slash in it."""
    one_word = not re.search(r"\s", text)
    return text.lower().endswith(SUFFIXES) or text.startswith(("/", "./", "../", "~")) or (one_word and "/" in text)


def _check_name(path: Path) -> None:
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is not a prompt file by its name; expected {', '.join(SUFFIXES)}.")


def _folder(path: Path, warn: Warn) -> Iterator[Video]:
    files = listed(path, SUFFIXES, "prompt file")
    if not files:
        raise UserError(f"{path} holds no prompt file; expected {', '.join(SUFFIXES)}.")
    errors: dict[Path, str] = {}
    for file in files:
        try:
            videos = _file(file)
        except UserError as error:
            errors[file] = str(error)
            videos = [Video([])] * count(file)
        yield from (Video(video.shots, file.stem if len(videos) == 1 else "") for video in videos)
    if len(errors) == len(files):
        more = f" Nor can the other {len(files) - 1} prompt files be used." if len(files) > 1 else ""
        raise UserError(errors[files[0]] + more)
    for file, why in errors.items():
        warn(file, why)


def _file(path: Path) -> list[Video]:
    return [Video(_shots(entry.prompt, entry.where, even=True)) for entry in read_file(path)]


def seconds(text: str | float) -> float:
    """``30``, ``30s``, ``1m30s`` or ``1:30`` in seconds. Raises ``UserError`` for anything else."""
    found = re.fullmatch(r"(?:(\d{1,9})(?:m|:))?(?:(\d{1,9}(?:\.\d+)?)s?)?", str(text).strip())
    if not found or found.group(0) == "":
        raise UserError(f"{text!r} is not a time; write 30s, 1m30s or 1:30.")
    return 60.0 * float(found[1] or 0) + float(found[2] or 0)


def _shots(given: Any, where: str, even: bool = False) -> list[Shot]:
    """Checks and reads the prompts of one video; ``even`` lets times be left out."""
    if isinstance(given, str) or (even and isinstance(given, dict)):
        given = [given if isinstance(given, dict) else {"prompt": given}]
    if not isinstance(given, list):
        _no_prompt(given, where)
    if not given:
        raise UserError(f"{where} has an empty list where prompts were expected; {SHAPE}.")
    shots = [_shot(each, where, first=n == 0, even=even) for n, each in enumerate(given)]
    times = [shot.at for shot in shots if shot.at is not None]
    if times != sorted(set(times)) or times[:1] not in ([], [0.0]) or (1 < len(times) != len(shots)):
        raise UserError(f"{where}: the times of the prompts must start at 0 and rise, not {times}.")
    return shots


def _shot(each: Any, where: str, first: bool, even: bool) -> Shot:
    each = {"prompt": each} if even and isinstance(each, str) else each
    if not isinstance(each, dict) or not {"prompt"} <= each.keys() <= {"prompt", "at", "cut"}:
        raise UserError(f"{where} has {each!r:.200}; {SHAPE}.")
    if not isinstance(each["prompt"], str):
        _no_prompt(each["prompt"], where)
    prompt = each["prompt"].strip()
    if not prompt:
        raise UserError(f"{where} has an empty prompt; give one sentence for each video.")
    if re.search(r"[\ud800-\udfff]", prompt):
        raise UserError(f"{where}: the prompt {prompt!r:.200} is not UTF-8 text; write it in UTF-8.")
    if "at" not in each and not first and not even:
        raise UserError(f"{where}: the prompt {prompt!r:.200} follows another and has no time; {SHAPE}.")
    cut = each.get("cut", False)
    if not isinstance(cut, bool) or (cut and first):
        raise UserError(f"{where}: the prompt {prompt!r:.200} has cut: {cut!r:.40}; {CUT}.")
    return Shot(prompt, seconds(each["at"]) if "at" in each else 0.0 if first else None, cut)


def _no_prompt(given: Any, where: str) -> NoReturn:
    """Raises ``UserError`` for what YAML or JSON has made of a prompt, or of prompts at the wrong place."""
    if isinstance(given, dict) and given.keys() & {"prompt", "at"}:
        raise UserError(
            f"{where} has {given!r:.200} among the videos; prompts that follow each other in one video are a list of "
            "their own: `- - prompt: ...` and below it `  - at: 30s` with `prompt: ...`."
        )
    if isinstance(given, dict):
        text = ", ".join(f"{key}: {value}" for key, value in given.items())
        raise UserError(f'{where} has a prompt with a colon in it; put it in quotes: "{text:.200}".')
    raise UserError(f"{where} has {given!r:.200} where a prompt was expected; put a prompt in quotes.")


def _limited(videos: Iterable[Video], path: Path) -> list[Video]:
    """All of them. Raises ``UserError`` for more than anyone rolls at once."""
    taken = list(islice(videos, MOST + 1))
    if len(taken) > MOST:
        raise UserError(f"{path} holds more than {MOST:,} prompts; split it.")
    return taken
