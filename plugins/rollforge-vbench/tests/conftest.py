"""Videos, another interpreter with the stand-in in it, and the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rollforge.video.writer import VideoWriter

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

FULL_INFO = [
    {"prompt_en": "a cat", "dimension": ["subject_consistency", "overall_consistency"]},
    {"prompt_en": "a dog, running", "dimension": ["subject_consistency"]},
]
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of its own, with nothing installed."""
    folder = tmp_path_factory.mktemp("other")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="session")
def vbench_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of its own, with the stand-in installed as vbench 0.1.5 and numpy 1 by name."""
    folder = tmp_path_factory.mktemp("vbench")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    shutil.copytree(HERE / "standin", site, dirs_exist_ok=True)
    (site / "vbench" / "VBench_full_info.json").write_text(json.dumps(FULL_INFO))
    metadata(site, "vbench", "0.1.5", "Requires-Dist: numpy<2.0.0\n")
    metadata(site, "numpy", "1.26.4")
    return folder / "venv" / "bin" / "python"


def metadata(site: Path, name: str, version: str, more: str = "") -> None:
    """Makes a package appear as installed."""
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}")


@pytest.fixture
def pretend() -> Callable[..., None]:
    """``metadata``, for tests."""
    return metadata


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes videos whose every frame is another grey."""
    folder = tmp_path_factory.mktemp("greys")

    def make(path: Path, frames: int = 40, fps: float = 8) -> Path:
        kept = folder / f"{frames}-{fps}.mp4"
        if not kept.exists():
            with VideoWriter(kept, (32, 16), fps) as writer:
                greys = np.arange(frames, dtype=np.uint8)[:, None, None, None]
                writer.write(np.broadcast_to(greys, (frames, 16, 32, 3)).copy())
        shutil.copy(kept, path)
        return path

    return make


@pytest.fixture
def run_folder(tmp_path: Path, video: Make) -> Path:
    """A finished run of three videos, of two prompts."""
    folder = tmp_path / "run"
    folder.mkdir()
    entries = []
    for sample, prompt in enumerate(["a cat", "a dog, running", "a cat"]):
        file = video(folder / f"{sample:03d}-some_name.mp4")
        entries.append(
            {"file": file.name, "prompt": prompt, "seed": 3, "sample": sample, "policy": "Window", "complete": True}
        )
    (folder / "manifest.json").write_text(json.dumps({"rollforge": "0", "complete": True, "videos": entries}))
    return folder


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The program, as its user runs it."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "rollforge_vbench", *map(str, arguments)]
        path = {"PYTHONPATH": f"{HERE.parent}:{HERE.parents[2]}"}
        every = {**os.environ, **path}
        return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, cwd=cwd, env=every)

    return run
