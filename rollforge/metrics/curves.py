"""Curves of one video as a CSV file: ``frame``, ``seconds``, then one column for each curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.reading import open_regular
from rollforge.files.writing import open_new, open_own


class CurveFile:
    """Writes curves while a video is generated, complete lines at a time. A value given twice for a frame is an error.

    Args:
        path: of the file.
        fps: frames (or latent frames) per second.
        frames: frames that the file already has, when a video is resumed; later lines are removed.

    Attributes:
        frames: frames that the file has.
    """

    def __init__(self, path: Path, fps: float, frames: int = 0) -> None:
        self.path, self.fps, self.names, self.frames = path, fps, list[str](), frames
        try:
            with open_own(path) if frames else open_new(path) as file:
                lines = file.read().splitlines(keepends=True) if frames else []
                if frames and len(lines) <= frames:
                    there = max(0, len(lines) - 1)
                    raise UserError(f"{path} holds {there} frames where {frames} were made; measure again.")
                file.truncate(sum(map(len, lines[: frames + 1])))
        except OSError as error:
            raise self._unwritable(error) from error
        if frames:
            self.names = lines[0].decode().strip().split(",")[2:]

    def add(self, curves: Mapping[str, Tensor], start: int) -> None:
        """Appends frames ``start, start + 1, ...`` of all curves ``[T]``; curves not there at first are left out."""
        if not curves:
            return
        head = "" if self.names else ",".join(["frame", "seconds", *curves]) + "\n"
        self.names = self.names or list(curves)
        count = len(next(iter(curves.values())))
        columns = [curves[name].tolist() if name in curves else [float("nan")] * count for name in self.names]
        rows = (
            ",".join([str(start + n), f"{(start + n) / self.fps:.6g}", *(f"{value:.7g}" for value in values)]) + "\n"
            for n, values in enumerate(zip(*columns, strict=True))
        )
        try:
            with open_own(self.path, append=True) as file:
                file.write((head + "".join(rows)).encode())
        except OSError as error:
            raise self._unwritable(error) from error
        self.frames += count

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path} cannot be written ({error.strerror}); make room there, or choose another --output_dir."
        )


def read_curves(path: Path) -> dict[str, NDArray[np.float64]]:
    """Every column of a file that ``CurveFile`` wrote, by name, ``frame`` and ``seconds`` among them."""
    with open_regular(path) as file:
        names = file.readline().decode().strip().split(",")
        table = np.loadtxt(file, delimiter=",", ndmin=2)
    return {name: table[:, n] for n, name in enumerate(names)} if len(table) else {}
