"""Files of strangers: only regular ones are opened, and folders are listed as people expect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rollforge.errors import UserError
from rollforge.safe_files import listed, open_regular, read_text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match="named pipe, device or socket, not a regular file"):
        read_text(tmp_path / "a.txt", 10, "prompt file")
    for file in (tmp_path / "a.txt", Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(file)


def test_a_folder_where_a_file_is_expected_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a folder, not a regular file"):
        open_regular(tmp_path)


def test_a_folder_is_listed_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    names = ["1.txt", "2.txt", "10.txt", "a2b10.txt", "A10b1.TXT", "b.txt"]
    for name in [*reversed(names), "._1.txt", ".DS_Store.txt", "1.png"]:
        (tmp_path / name).write_text("x")
    assert [file.name for file in listed(tmp_path, (".txt",), "prompt file")] == names
