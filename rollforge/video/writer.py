"""Writes an mp4 block by block: it is playable at any moment, and gets its final name only when it is complete.

The file is called ``<name>.partial.mp4`` until it is closed. It is flushed at each group of pictures: a killed run
loses at most the last one. With an earlier ``state_dict`` another writer continues the same file, and the
finished video has exactly the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av
import numpy as np

from rollforge.errors import UserError
from rollforge.video.encoder import GROUP, Encoder, Frames
from rollforge.video.file import AppendOnly

if TYPE_CHECKING:
    from rollforge.state import State

SMALL = 384
"""Pixels: videos smaller than this are written with enlarged pixels."""
BROKEN = (OSError, av.FFmpegError)
COARSEST = 51


def enlargement(size: tuple[int, int]) -> int:
    """Pixels of a file to a pixel of a video of that width and height, each way."""
    return max(1, SMALL // min(size))


class VideoWriter:
    """Writes an mp4 (H.264) of any length in constant memory.

    As a context manager it finishes the file on a clean exit. On an exception it leaves a playable
    ``<name>.partial.mp4`` and nothing under the final name.

    Args:
        path: the finished file, ``*.mp4``.
        size: width and height of the frames in pixels; an odd edge of the video grows by a repeated pixel.
        fps: frames per second, a fraction if need be.
        scale: writes every pixel as a square of this many pixels.
        crf: H.264 quality; lower is better and larger. 0 keeps every frame as it is, in RGB: for metrics, which
            must not score the codec, and for fewer players.
        state: what ``state_dict`` returned for this video, with the same arguments. Its frames are kept, later ones are
            removed.

    Raises:
        UserError: for invalid arguments, where the file cannot be created, and where it does not match the state; the
            file is not changed then, and an older state may match.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float | Fraction,
        scale: int = 1,
        crf: int = 10,
        state: State | None = None,
    ) -> None:
        self.path, self.size, self.scale, self.crf = Path(path), size, scale, crf
        if self.path.suffix != ".mp4":
            raise UserError(f"{self.path.name}: videos are written as .mp4; choose a name that ends so.")
        if min(size) < 1 or fps <= 0 or scale < 1:
            raise UserError(f"{self.path.name}: size, fps and scale must be positive, not {size}, {fps} and {scale}.")
        if not 0 <= crf <= COARSEST:
            raise UserError(f"{self.path.name}: crf must lie between 0 (lossless) and {COARSEST}, not at {crf}.")
        self.partial = self.path.with_suffix(".partial.mp4")
        self._boundary = _Boundary() if state is None else _Boundary(state["before"], state["offset"], state["sha256"])
        self._tail: list[Frames] = []  # copies of the frames since the boundary
        self.written = self._boundary.before
        self._failure: UserError | None = None
        tail = None if state is None else state["tail"].numpy()
        if tail is not None and tail.shape[1:] != (size[1], size[0], 3):
            raise self._unfit(f"the snapshot has frames of {tail.shape[2]}x{tail.shape[1]} pixels, not {size}")
        if state is not None and state["crf"] != crf:
            raise self._unfit(f"the snapshot is of crf {state['crf']}, not {crf}")
        self._file = self._open()
        try:
            tick = 1 / Fraction(fps).limit_denominator(1001)
            self._encoder = Encoder(self._file, size, tick, scale, crf, self.written)
            if not self._file.repeats:
                raise self._unfit("it was made with other settings or another version of FFmpeg")
        except BaseException:
            self._file.close()
            raise
        if tail is not None:
            self._take_up(tail)

    def _open(self) -> AppendOnly:
        kept = self._boundary
        try:
            file = AppendOnly(self.partial, kept.offset)
        except OSError as error:
            if kept.offset and isinstance(error, FileNotFoundError):
                raise self._unfit("it is gone") from error
            raise UserError(
                f"{self.partial} cannot be written ({error.strerror}); choose another --output_dir."
            ) from error
        if file.size == kept.offset and file.sha256 == kept.sha256:
            return file
        file.close()
        if file.size < kept.offset:
            raise self._unfit(f"it has only {file.size} of the {kept.offset} bytes that it had at the snapshot")
        raise self._unfit(f"its first {kept.offset} bytes have changed since the snapshot")

    def _take_up(self, tail: Frames) -> None:
        """Continues behind the boundary, where the frames since then are written again."""
        try:
            try:
                self._file.cut()
            except OSError as error:
                raise self._fail(error) from error
            self.write(tail)
        except BaseException:
            self.abandon()
            raise

    def write(self, frames: Frames) -> None:
        """Appends frames, uint8 ``[T, height, width, 3]``.

        Raises:
            ValueError: for frames of another kind or size.
            UserError: when the file cannot be written, or no longer exists. This is final: the video stays unfinished.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self.size[1], self.size[0], 3):
            raise ValueError(
                f"Expected uint8 [T, {self.size[1]}, {self.size[0]}, 3], got {frames.dtype} {list(frames.shape)}."
            )
        self._check()
        for image in frames:
            try:
                self._encoder.add(image, self.written)
            except BROKEN as error:
                raise self._fail(error) from error
            if self.written and self.written % GROUP == 0:
                self._boundary = _Boundary(self.written, self._file.size, self._file.sha256)
                self._tail.clear()
            self._tail.append(image.copy())
            self.written += 1

    def state_dict(self) -> State:
        """All that a writer needs to continue from here, once the file is synced to the disk.

        Returns:
            ``crf``; ``frames``, those written; ``offset``, ``before`` and ``sha256``: bytes, frames and digest of the
            file up to its last complete group; ``tail``: the frames since then, a uint8 tensor
            ``[n, height, width, 3]``, at most 12. Up to 12 frames all are in the tail, and no file is needed to
            continue.

        Raises:
            UserError: where the file could not be written, or no longer exists.
        """
        import torch  # nothing else about videos needs it

        self._check()
        try:
            self._file.sync()
        except OSError as error:
            raise self._fail(error) from error
        tail = np.stack(self._tail) if self._tail else np.empty((0, self.size[1], self.size[0], 3), np.uint8)
        return {"crf": self.crf, "frames": self.written, **vars(self._boundary), "tail": torch.from_numpy(tail)}

    def close(self) -> None:
        """Finishes the file and gives it its name. Raises ``UserError`` where that fails or no frame came."""
        if self._file.closed:
            return
        self.abandon()
        if self._failure:
            raise self._failure
        if not self.written:
            raise UserError(f"{self.path} was not written: no frame came.")
        try:
            self.partial.replace(self.path)
        except OSError as error:
            raise self._fail(error) from error

    def abandon(self) -> None:
        """Stops: what was written stays playable under its partial name. Does nothing after ``close``."""
        if self._file.closed:
            return
        try:
            try:
                self._check()
                if self.written:
                    self._encoder.flush()
            finally:
                self._encoder.close()
            self._file.sync()
        except UserError:
            pass  # kept in _failure
        except BROKEN as error:
            self._fail(error)
        finally:
            self._file.close()
        if not self.written and not self._failure:
            self.partial.unlink()

    def _check(self) -> None:
        """Raises the first failure, or an error if the file was removed."""
        if not self._failure and not self._file.closed and not self._file.there:
            self._failure = UserError(
                f"{self.partial} was removed or replaced while it was written; "
                "leave the output folder alone during a run, and start again."
            )
        if self._failure:
            raise self._failure
        if self._file.closed:
            raise ValueError(f"{self.path.name} is closed.")

    def _fail(self, error: OSError | av.FFmpegError) -> UserError:
        """Records the first failure; later ones follow from it."""
        self._failure = self._failure or UserError(
            f"Writing {self.partial} failed after {self.written} frames ({error.strerror}); "
            "free space there or choose another --output_dir."
        )
        return self._failure

    def _unfit(self, what: str) -> UserError:
        return UserError(f"{self.partial} cannot be continued: {what}; take an older snapshot or start again.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


@dataclass(frozen=True)
class _Boundary:
    """The end of the last complete fragment: frames and bytes before it, and their digest; at first the empty file."""

    before: int = 0
    offset: int = 0
    sha256: str = sha256().hexdigest()
