"""A finished clip, which can be saved as a video and is displayed in a notebook."""

from __future__ import annotations

import html
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from rollforge.data.requests import Request
from rollforge.video.writer import VideoWriter, enlargement


@dataclass(frozen=True, eq=False)
class Clip:
    """A video in memory.

    Args:
        frames: pixel frames uint8 ``[T, H, W, 3]``, on the CPU.
        fps: pixel frames per second.
        latents: ``[F, C, h, w]``, on the CPU.
        request: the request that it was generated from.
        decoded: the frames before the stage ``finish``, which metrics see; None where they are the same.
    """

    frames: Tensor
    fps: float
    latents: Tensor
    request: Request
    decoded: Tensor | None = None

    @property
    def prompt(self) -> str:
        """Its prompt."""
        return self.request.prompt

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return len(self.frames) / self.fps

    def save(self, path: str | Path) -> Path:
        """Writes an mp4, as ``predict`` does: small videos with enlarged pixels. Returns its path.

        Raises ``UserError`` for a name that does not end in ``.mp4``, and where it cannot be written.
        """
        size = self.frames.shape[2], self.frames.shape[1]
        with VideoWriter(path, size, self.fps, enlargement(size)) as writer:
            writer.write(self.frames.numpy())
        return Path(path)

    def __repr__(self) -> str:
        height, width = self.frames.shape[1:3]
        return f"Clip({self.prompt!r}, {self.seconds:.1f} s, {width}x{height}, {self.fps:g} fps)"

    def _repr_html_(self) -> str:
        """The video as HTML, for a notebook."""
        with TemporaryDirectory() as folder:
            content = self.save(Path(folder) / "clip.mp4").read_bytes()
        address = f"data:video/mp4;base64,{b64encode(content).decode()}"
        return (
            f'<figure><video controls loop muted autoplay src="{address}"></video>'
            f"<figcaption>{html.escape(self.prompt)}</figcaption></figure>"
        )


class Clips(list[Clip]):
    """Several clips, which a notebook displays one after the other."""

    def _repr_html_(self) -> str:
        return "".join(clip._repr_html_() for clip in self)
