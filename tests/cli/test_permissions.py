"""Files and folders that may not be read or written: one sentence each, whatever they are for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rollforge.cli import main
from rollforge.video.writer import VideoWriter

NOBODY = 65534


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with something of every kind, which every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="rollforge-"))
    folder.chmod(0o777)
    monkeypatch.chdir(folder)
    for name, value in {"a.txt": "a red ball over snow at day", "weights.safetensors": "x", "last.ckpt": "x"}.items():
        (folder / name).write_text(value)
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    for name in ("prompts", "videos", "out"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    with VideoWriter(folder / "videos" / "a.mp4", (64, 64), 8.0) as writer:
        writer.write(np.zeros((8, 64, 64, 3), np.uint8))
    shutil.copy(folder / "a.txt", folder / "videos" / "a.txt")
    yield folder
    os.seteuid(os.getuid())
    for each in folder.rglob("*"):
        each.chmod(0o777)
    shutil.rmtree(folder)


CLIPS = {"class_path": "VideoClips", "init_args": {"folder": "videos", "frames": 6, "size": [64, 64]}}
FIT = {"model.objective": {"class_path": "DiffusionForcing"}, "data.train_dataset": CLIPS, "trainer.max_steps": 1}


@pytest.mark.parametrize(
    ("denied", "mode", "command", "changes", "sentence"),
    [
        ("config.yaml", 0, ["predict"], {}, "The config config.yaml cannot be read (Permission denied)"),
        ("a.txt", 0, ["predict"], {"data.prompts": "a.txt"}, "The prompt file a.txt cannot be read (Permission"),
        ("prompts", 0, ["predict"], {"data.prompts": "prompts"}, "The folder prompts cannot be read (Permission"),
        ("a.png", 0, ["predict"], {"data.opening": "a.png"}, "The picture a.png cannot be read"),
        ("videos/a.mp4", 0, ["predict"], {"data.opening": "videos/a.mp4"}, "cannot be read (Permission denied)"),
        (
            "weights.safetensors", 0, ["predict"], {"model.backbone.init_args.weights": "weights.safetensors"},
            "Pocket: weights.safetensors cannot be read (Permission denied)",
        ),
        ("last.ckpt", 0, ["predict", "--ckpt_path", "last.ckpt"], {}, "The checkpoint last.ckpt cannot be read (Perm"),
        ("out", 0o555, ["predict"], {}, "out cannot be locked (Permission denied)"),
        ("out", 0, ["predict"], {}, "The output folder out cannot be used (Permission denied)"),
        ("videos", 0, ["test"], {"data.videos": "videos"}, "The folder videos cannot be read (Permission denied)"),
        ("videos/a.mp4", 0, ["test"], {"data.videos": "videos"}, "a.mp4 cannot be read (Permission denied)"),
        ("videos", 0, ["fit"], FIT, "The folder videos cannot be read (Permission denied)"),
        ("videos/a.mp4", 0, ["fit"], FIT, "a.mp4 cannot be read (Permission denied)"),
        ("videos/a.txt", 0, ["fit"], FIT, "The caption videos/a.txt cannot be read (Permission denied)"),
        ("out", 0o555, ["fit"], FIT, "out cannot be locked (Permission denied)"),
    ],
)  # fmt: skip
def test_what_may_not_be_used_prints_a_one_line_error(
    tiny: Any, place: Path, error_line: Callable[[int], str], denied: str, mode: int, command: list[str],
    changes: dict[str, Any], sentence: str,
) -> None:  # fmt: skip
    for path, value in deepcopy(changes).items():
        *steps, last = path.split(".")
        section = tiny.config
        for step in steps:
            section = section.setdefault(step, {})
        section[last] = value
    tiny.folder = place
    tiny.write("config.yaml")
    (place / denied).chmod(mode)
    if os.getuid() == 0:  # who may read everything
        os.seteuid(NOBODY)
    assert sentence in error_line(main([*command, "--config", "config.yaml", "--output_dir", "out"]))
