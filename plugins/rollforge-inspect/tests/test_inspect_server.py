"""The tools over MCP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rollforge_inspect.server import inside, run, server
from rollforge_inspect.tool import ToolError

from rollforge.errors import UserError

Videos = dict[str, Path]


def called(made: Any, name: str, **arguments: Any) -> list[Any]:
    content: list[Any] = asyncio.run(made.call_tool(name, arguments)).content
    return content


def test_the_tools_show_frames_and_find_changes(videos: Videos) -> None:
    pytest.importorskip("mcp", reason="the package mcp is not installed")
    made = server(videos["cut"].parent)
    window = called(made, "crop_video", video_path="cut.mp4", start_time=36, end_time=38)
    assert [part.type for part in window] == ["text", "text", "image", "text", "image"]
    assert [part.text for part in window if part.type == "text"] == ["Frames from 36 s to 38 s.", "36.00 s", "37.00 s"]
    assert len(called(made, "skim_video", video_path="short/nothing.mp4")) == 1 + 2 * 3
    (found,) = called(made, "find_change", video_path="cut.mp4", question="when is the cut?")
    start, end = json.loads(found.text)["interval"]
    assert start < 37 < end


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"video_path": "cut.mp4", "start_time": 99, "end_time": 101}, "end_time 101 must not be above"),
        ({"video_path": "../cut.mp4", "start_time": 1, "end_time": 2}, "is not in the folder of videos"),
        ({"video_path": "missing.mp4", "start_time": 1, "end_time": 2}, "missing.mp4"),
    ],
)
def test_what_a_tool_refuses_is_told(videos: Videos, arguments: dict[str, Any], expected: str) -> None:
    pytest.importorskip("mcp", reason="the package mcp is not installed")
    with pytest.raises(Exception, match=expected):
        called(server(videos["cut"].parent), "crop_video", **arguments)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; give the one with the videos"):
        run([str(tmp_path / "none")])


@pytest.mark.parametrize("path", ["../cut.mp4", "/etc/passwd", "link/x.mp4", "a\0b"])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "link").symlink_to("/etc")
    with pytest.raises(ToolError):
        inside(tmp_path / "videos", path)
    assert inside(tmp_path / "videos", "a/../b.mp4") == (tmp_path / "videos" / "b.mp4").resolve()
