"""``rollforge inspect-server``: the tools as an MCP server on standard input and output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollforge.commands.arguments import Arguments, file
from rollforge.errors import UserError
from rollforge_inspect.loop import inspect
from rollforge_inspect.pictures import jpeg
from rollforge_inspect.tool import ToolError
from rollforge_inspect.tool import crop_video as cropped
from rollforge_inspect.video import Look, Video


def run(arguments: list[str]) -> None:
    """Offers crop_video, skim_video and find_change to MCP clients."""
    about = "Serve the tools of rollforge inspect over MCP, on standard input and output."
    parser = Arguments(prog="rollforge inspect-server", description=about)
    parser.add_argument("folder", type=file, help="the videos that clients may name; none outside of it is opened")
    chosen = parser.parse_args(arguments)
    if not chosen.folder.is_dir():
        raise UserError(f"{chosen.folder} is not a folder; give the one with the videos.")
    server(chosen.folder).run("stdio")


def server(folder: Path) -> Any:
    """The MCP server for the videos of a folder. Raises ``UserError`` where the package ``mcp`` is not installed."""
    try:
        from mcp.server.mcpserver import Image, MCPServer
        from mcp.server.mcpserver.exceptions import ToolError as Refused
    except ImportError as error:
        raise UserError("The server needs the package mcp; run: pip install 'rollforge-inspect[mcp]'.") from error
    made = MCPServer("rollforge-inspect", log_level="WARNING")

    @contextmanager
    def opened(path: str) -> Iterator[Video]:
        """A video of the folder. What is wrong with it, or with what is asked of it, the client is told."""
        try:
            yield Video(inside(folder, path))
        except (ToolError, UserError) as error:
            raise Refused(str(error)) from error

    @made.tool(structured_output=False)
    def crop_video(video_path: str, start_time: float, end_time: float) -> list[Any]:
        """Frames of a window of a video, one a second, 128 at most. Times are in seconds."""
        with opened(video_path) as video:
            return _parts(cropped(video, start_time, end_time), Image)

    @made.tool(structured_output=False)
    def skim_video(video_path: str) -> list[Any]:
        """Frames of a complete video, one a second, 128 at most."""
        with opened(video_path) as video:
            return _parts(video.look(0.0, video.seconds), Image)

    @made.tool(structured_output=False)
    def find_change(video_path: str, question: str) -> str:
        """When a cut, a vanishing object or a drift of colour happens in a video, by its curves, as JSON."""
        with opened(video_path) as video:
            return json.dumps(inspect(video.path, question).as_json())

    return made


def _parts(look: Look, image: Callable[..., Any]) -> list[Any]:
    """What a client is shown of a look."""
    parts: list[Any] = [f"Frames from {look.start:g} s to {look.end:g} s."]
    for time, frame in zip(look.times, look.frames, strict=True):
        parts += [f"{time:.2f} s", image(data=jpeg(frame), format="jpeg")]
    return parts


def inside(folder: Path, path: str) -> Path:
    """A path in a folder. Raises ``ToolError`` for one that leads out of it, by whatever link."""
    root = folder.resolve()
    try:
        found = (root / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise ToolError(f"{path!r:.80} is not a path.") from error
    if not found.is_relative_to(root):
        raise ToolError(f"{path!r:.80} is not in the folder of videos.")
    return found
