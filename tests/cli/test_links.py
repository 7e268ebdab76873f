"""A run folder that somebody else has prepared: links and pipes in it lead a run to no other file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAME = "000-a-red-ball-over-snow-at-day"
LINKS = (
    f"{NAME}.partial.mp4",
    f"{NAME}.curves.partial.csv",
    f"{NAME}.latent_metrics.partial.csv",
    ".lock",
    "config.yaml.partial",
)
ErrorLine = Callable[[int], str]


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file, in a folder of its own, that no run may change."""
    file = tmp_path / "home" / "precious"
    file.parent.mkdir()
    file.write_text("precious")
    return file


@pytest.mark.parametrize(("command", "name"), [("predict", LINKS[0]), ("test", "snapshots"), ("fit", "last.ckpt")])
def test_a_link_out_of_the_run_folder_is_refused(
    tiny: Any, error_line: ErrorLine, precious: Path, command: str, name: str
) -> None:
    if command == "fit":
        tiny.config["model"]["objective"] = {"class_path": "DiffusionForcing"}
        tiny.config["data"]["train_dataset"] = {"class_path": "WorldClips", "init_args": {"frames": 3}}
    tiny.out.mkdir()
    (tiny.out / name).symlink_to(precious.parent if name == "snapshots" else precious)
    assert f"{tiny.out / name} is a link to {precious.parent}" in error_line(tiny.run(command, "--overwrite", "true"))
    assert [file.read_text() for file in precious.parent.iterdir()] == ["precious"]


@pytest.mark.parametrize("folder", ["snapshots", "latents"])
def test_a_link_further_down_is_refused(tiny: Any, error_line: ErrorLine, precious: Path, folder: str) -> None:
    (tiny.out / folder).mkdir(parents=True)
    (tiny.out / folder / NAME).symlink_to(precious.parent)
    (precious.parent / "snapshot-000001.safetensors").write_text("precious")
    assert f"{folder}/{NAME} is a link to" in error_line(tiny.run("predict", "--overwrite", "true"))
    assert [file.read_text() for file in precious.parent.iterdir()] == ["precious", "precious"]


def test_hard_links_are_replaced_and_not_written_through(tiny: Any, precious: Path, error_line: ErrorLine) -> None:
    tiny.out.mkdir()
    for name in LINKS:
        (tiny.out / name).hardlink_to(precious)
    assert "out cannot be locked (it has a second name" in error_line(tiny.run("test", "--overwrite", "true"))
    (tiny.out / ".lock").unlink()
    assert tiny.run("test", "--overwrite", "true") == 0
    assert precious.read_text() == "precious"
    assert (tiny.out / f"{NAME}.curves.csv").read_text().startswith("frame,seconds")


def test_pipes_in_a_run_folder_do_not_hang(tiny: Any, error_line: ErrorLine) -> None:
    tiny.out.mkdir()
    for name in LINKS[:3]:
        os.mkfifo(tiny.out / name)
    os.mkfifo(tiny.out / "manifest.json")
    assert "manifest.json cannot be read (it is a named pipe" in error_line(tiny.run("predict"))
    (tiny.out / "manifest.json").unlink()
    assert tiny.run("test") == 0
