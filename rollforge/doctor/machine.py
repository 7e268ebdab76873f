"""Checks of the machine: versions, plugins, the video encoder, the output folder and its disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av
import numpy as np

from rollforge import __version__
from rollforge.budget.table import readable
from rollforge.doctor.finding import Findings
from rollforge.errors import UserError
from rollforge.files.reading import MANIFEST, parse_json, read_text
from rollforge.registry import registry
from rollforge.report.run import RunFolder
from rollforge.video.reader import frames
from rollforge.video.writer import VideoWriter

ALWAYS = ("torch", "lightning", "av")
NEEDED_BY = {  # packages that only some parts need, by the module of the part
    "rollforge.backbones.wan.codec": ("diffusers",),
    "rollforge.backbones.wan.text": ("transformers", "ftfy"),
}


def versions(findings: Findings, class_paths: Iterable[str]) -> None:
    """Reports versions and checks that required packages are installed."""
    needed = {
        name: path.rpartition(".")[2]
        for path in class_paths
        for name in NEEDED_BY.get(path.rpartition(".")[0], ())
    }  # fmt: skip
    found = [f"rollforge {__version__}"]
    for name in (*ALWAYS, *needed):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            findings.add(
                "problem", "packages",
                f"{needed.get(name, 'rollforge')} needs the package {name}, which is not installed; install it with "
                "pip install 'rollforge[wan]'.",
            )  # fmt: skip
    findings.add("ok", "versions", ", ".join(found) + ".")


def plugins(findings: Findings) -> None:
    """Every plugin that could not be loaded, by name, and every part that cannot be imported."""
    found = registry()
    found.load()
    for failure in found.failures:
        findings.add("warning", "plugins", failure)
    origins = sorted({part.origin for part in found.parts.values()})
    findings.add("ok", "plugins", f"{len(found.parts)} parts from {', '.join(origins)}.")


def encoder(findings: Findings, size: tuple[int, int]) -> None:
    """Writes a clip of two frames in a temporary folder and reads it back."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        width, height = size
        with VideoWriter(file, size, 16) as writer:
            writer.write(np.zeros((2, height, width, 3), np.uint8))
        count = sum(1 for _ in frames(file))
    if count != 2:
        raise UserError(f"a clip of 2 frames came back with {count}; install another version of av.")
    library = ".".join(str(n) for n in av.library_versions["libavcodec"])
    findings.add("ok", "encoder", f"H.264 at {width}x{height} is written and read back (libavcodec {library}).")


def output_folder(findings: Findings, folder: RunFolder) -> Path:
    """Whether videos can be written there. Returns the nearest folder that exists. Leaves nothing behind."""
    path = folder.path
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise UserError(f"{there} is not a folder; choose another --output_dir.")
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"rollforge")
    except OSError as error:
        raise UserError(f"{there} cannot be written to ({error.strerror}); choose another --output_dir.") from error
    manifest = path / "manifest.json"
    if manifest.is_file() and not folder.overwrite and not folder.made(_hash(manifest)):
        raise UserError(
            f"{path} holds videos of another config; choose another --output_dir, or --overwrite true to replace them."
        )
    findings.add("ok", "output", f"{path} can be written to.")
    return there


def disk(findings: Findings, folder: Path | None, videos: int, snapshots: int, measured: bool) -> None:
    """Whether videos and what is saved next to them fit on the disk of ``folder``; an estimate.

    Without a folder the sizes are only reported. ``measured``: the size of a video frame was measured with this model.
    """
    size = videos + snapshots
    text = (
        f"the run takes about {readable(size)} (videos {readable(videos)}{'' if measured else ', at a guess'}, "
        f"snapshots and latents {readable(snapshots)})"
    )
    if folder is None:
        findings.add("ok", "disk", f"{text}.")
        return
    free = shutil.disk_usage(folder).free
    text += f"; {readable(free)} are free"
    if size > free:
        findings.add(
            "problem", "disk",
            f"{text}: make room, choose another --output_dir, or set --snapshots.kv recompute for smaller snapshots.",
        )  # fmt: skip
    elif size > free // 2:
        findings.add("warning", "disk", f"{text}, which is not much more.")
    else:
        findings.add("ok", "disk", f"{text}.")


def _hash(manifest: Path) -> str:
    try:
        return str(parse_json(read_text(manifest, MANIFEST, "manifest"))["config_hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest} is damaged ({error}); move it away, or choose another --output_dir.") from error
