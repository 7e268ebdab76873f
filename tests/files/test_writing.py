"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rollforge.errors import UserError
from rollforge.files.writing import (
    make_folder,
    open_new,
    open_own,
    replacing,
    subfolder,
    write,
    write_json,
    write_tensors,
)

WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write(path, "é" * 50_000),
    "bytes": lambda path: write(path, b"x" * 100_000),
    "json": lambda path: write_json(path, ["x" * 100_000]),
    "tensors": lambda path: write_tensors(path, {"x": torch.zeros(25_000)}),
}


@contextmanager
def full_disk(left: int = 20_000) -> Iterator[None]:
    """No file of this process may grow beyond ``left`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_everything_that_is_written_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "too"
    with pytest.raises(UserError, match="cannot be written"):
        write(folder / "text", "a folder that was removed is not made again")
    make_folder(folder)
    write(folder / "text", "naïve\n")
    write(folder / "bytes", b"\r\n\0")
    write_json(folder / "json", {"a": [1, None]})
    write_tensors(folder / "tensors", {"x": torch.arange(3)}, {"word": "said"})
    assert (folder / "text").read_bytes() == "naïve\n".encode()
    assert (folder / "bytes").read_bytes() == b"\r\n\0"
    assert json.loads((folder / "json").read_text()) == {"a": [1, None]}
    with safe_open(folder / "tensors", "pt") as opened:
        assert opened.metadata() == {"word": "said"}
        assert opened.get_tensor("x").tolist() == [0, 1, 2]
    assert sorted(os.listdir(folder)) == ["bytes", "json", "tensors", "text"]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, kind: str, before: bytes | None) -> None:
    path = tmp_path / "file"
    if before:
        path.write_bytes(before)
    expected = rf"^{path} cannot be written \(File too large\); make room there, or choose another folder\.$"
    with full_disk(), pytest.raises(UserError, match=expected):
        WRITERS[kind](path)
    assert os.listdir(tmp_path) == (["file"] if before else [])
    assert not before or path.read_bytes() == before


def fail(path: Path, error: BaseException | type[BaseException]) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise error


def test_no_name_before_the_end_and_no_rest_of_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    for error in (KeyboardInterrupt, UserError("of the caller"), ValueError):
        with pytest.raises(error if isinstance(error, type) else UserError):
            fail(path, error)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/in cannot be written \((File exists|Not a directory)\)"):
        write(tmp_path / "file" / "in", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written"):
        write(tmp_path / "folder", "")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(number: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        sync(number)

    def rename(self: Path, target: Path) -> None:
        seen.append("rename")
        replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    write(tmp_path / "file", "x")
    assert seen == ["file.partial", "rename", tmp_path.name]


def test_plain_files_need_no_torch() -> None:
    script = "import sys, rollforge.files.writing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["symbolic link", "hard link"])
def test_nothing_is_written_through_a_link(tmp_path: Path, kind: str) -> None:
    precious, link = tmp_path / "precious", tmp_path / "run" / "a.partial"
    link.parent.mkdir()
    precious.write_bytes(b"precious")
    link.symlink_to(precious) if kind == "symbolic link" else link.hardlink_to(precious)
    for append in (False, True):
        with pytest.raises(OSError, match="link"):
            open_own(link, append)
    write(link.with_suffix(""), "new")  # whose temporary file has the name of the link
    assert link.with_suffix("").read_text() == "new"
    link.unlink(missing_ok=True)
    link.symlink_to(precious) if kind == "symbolic link" else link.hardlink_to(precious)
    with open_new(link) as file:
        file.write(b"new")
    with open_own(link, append=True) as file:
        file.write(b", newer")
    assert (link.read_bytes(), precious.read_bytes()) == (b"new, newer", b"precious")


def test_folders_of_a_run_are_no_links(tmp_path: Path) -> None:
    (tmp_path / "run" / "snapshots").mkdir(parents=True)
    assert subfolder(tmp_path / "run", "snapshots", "a") == tmp_path / "run" / "snapshots" / "a"
    (tmp_path / "run" / "snapshots" / "a").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"snapshots/a is a link to .*; remove it"):
        subfolder(tmp_path / "run", "snapshots", "a")
