"""Which videos there are to score: those of a finished run folder, or the files of any folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rollforge.errors import UserError, nearest
from rollforge.files.reading import MANIFEST, bare_name, listed, open_regular, read_json
from rollforge.video.container import film, open_video
from rollforge.video.reader import VideoInfo, probe

SUFFIXES = (".mp4", ".avi", ".mov")  # what VBench-Long looks at


@dataclass(frozen=True)
class Source:
    """A video to score, and what is known of it."""

    path: Path
    prompt: str
    info: VideoInfo
    made: dict[str, Any]  # seed, sample, policy, ... of the run's manifest

    def record(self) -> dict[str, Any]:
        """What a result must say of its video."""
        with open_video(self.path) as container:
            context = film(self.path, container).codec_context
            codec = {"codec": context.codec.canonical_name, "pix_fmt": context.pix_fmt}
        with open_regular(self.path) as file:
            digest = sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        size = {"fps": self.info.fps, "frames": self.info.frames, "size": [self.info.width, self.info.height]}
        return {"source": str(self.path), "prompt": self.prompt, "sha256": digest.hexdigest(), **size, **codec} | (
            {"made": self.made} if self.made else {}
        )


def find(folders: Iterable[Path], policy: str | None = None, prompts: Path | None = None) -> list[Source]:
    """The videos of run folders and other folders.

    Args:
        folders: where they lie.
        policy: takes those of this policy only; needed where a run has rolled two.
        prompts: a JSON file, ``{"file name": "prompt"}``, that goes before the manifest and before file names.

    Raises:
        UserError: for a run that is not finished, for a mixture of policies, and where there is nothing to score.
    """
    known = _read(prompts) if prompts else {}
    if not isinstance(known, dict) or not all(isinstance(prompt, str) for prompt in known.values()):
        raise UserError(f'{prompts} was expected to say {{"file name": "prompt", ...}}, and says something else.')
    found: list[Source] = []
    for folder in folders:
        manifest = folder / "manifest.json"
        entries = _finished(manifest) if manifest.exists() else _files(folder)
        for entry in _of_policy(entries, policy, folder):
            path = folder / entry["file"]
            made: dict[str, Any] = {
                key: entry[key] for key in ("seed", "sample", "policy", "latent_frames") if key in entry
            }
            prompt = known.get(path.name) or entry.get("prompt") or path.stem
            found.append(Source(path.resolve(), prompt, probe(path), made))
    if not found:
        raise UserError(f"There is no video in {', '.join(map(str, folders))}; name run folders or folders of mp4.")
    return found


def _read(path: Path) -> Any:
    return read_json(path, MANIFEST, "file")


def _finished(manifest: Path) -> list[dict[str, Any]]:
    """The entries of a manifest, all of them complete."""
    content = _read(manifest)
    try:
        entries = [{**entry, "file": bare_name(entry["file"], manifest.parent)} for entry in content["videos"]]
        open_ = [str(entry["file"]) for entry in entries if not entry["complete"]]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{manifest} is not a manifest of a rollforge run; name a run folder.") from error
    if open_:
        raise UserError(f"The run in {manifest.parent} is not finished ({', '.join(open_)}); let rollforge end it.")
    return entries


def _files(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a run folder or a folder of videos.")
    files = [file for file in listed(folder, SUFFIXES, "video") if ".partial" not in file.suffixes]
    return [{"file": file.name} for file in files]


def _of_policy(entries: Sequence[dict[str, Any]], policy: str | None, folder: Path) -> list[dict[str, Any]]:
    policies = sorted({entry["policy"] for entry in entries if "policy" in entry})
    if policy is None and len(policies) > 1:
        raise UserError(
            f"{folder} holds videos of {' and '.join(policies)}, which cannot share one score; choose one by --policy."
        )
    if policy is not None and policies and policy not in policies:
        raise UserError(f"{folder} holds no video of {policy!r}.{nearest(policy, policies)} It has: {policies}.")
    return [entry for entry in entries if policy is None or entry.get("policy", policy) == policy]
