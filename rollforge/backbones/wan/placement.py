"""Where a codec works: its device, its dtype and, on CUDA, its stream; the same for both of Wan's codecs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from rollforge.backbones.base import DecodeStream, VideoCodec
from rollforge.devices import working_dtype
from rollforge.errors import UserError
from rollforge.ranges import Range
from rollforge.state import State, copied, moved

DType = Literal["auto", "bf16", "fp32"]


def chosen_dtype(dtype: DType, device: torch.device | str) -> torch.dtype:
    """The dtype that a codec with the argument ``dtype`` has on ``device``."""
    return {"bf16": torch.bfloat16, "fp32": torch.float32}.get(dtype) or working_dtype(device)


Channels = Annotated[int, Range(1, 4_096)]


class PlacedCodec(VideoCodec):
    """A codec that keeps its own dtype, and its own device if it was given one.

    ``device`` is ``auto`` to go where the surrounding module goes, or a name such as ``cuda:1``, which keeps the codec
    there whatever happens to the module. ``dtype`` is ``auto`` for bf16 on a CUDA device that has it, else fp32. With
    ``own_stream`` a rollout decodes in a thread while it generates the next block, and every decode stream on CUDA runs
    on a CUDA stream of its own. A subclass calls ``place`` when it is built.
    """

    def __init__(self, device: str, dtype: DType, own_stream: bool) -> None:
        super().__init__()
        self.fixed = None if device == "auto" else _device(device, type(self).__name__)
        self.number_format, self.own_stream = dtype, own_stream

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latents that it decodes."""

    @property
    def where(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def precision(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def place(self, device: torch.device | None = None) -> PlacedCodec:
        """Moves the weights to the codec's own device, or else to ``device``, in the dtype that belongs there."""
        device = self.fixed or device or self.where
        dtype = chosen_dtype(self.number_format, device)
        return super()._apply(lambda tensor: tensor.to(device, dtype))

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> PlacedCodec:
        """What ``to`` and its kin come down to: only the device of what they ask for counts, and only for ``auto``."""
        return self if self.fixed else self.place(fn(torch.empty(0, device=self.where)).device)

    def at_work(self) -> torch.autocast:
        """The context to compute in: mixed precision of the surrounding module does not reach the codec."""
        return torch.autocast(self.where.type, enabled=False)


class PlacedStream(DecodeStream):
    """Decoding on the codec's device, in order, block by block; the frames stay there, as float32.

    ``state`` holds all that is carried from block to block. The codec itself is only read, so that any number of
    streams can share it.
    """

    codec: PlacedCodec

    def __init__(self, codec: PlacedCodec) -> None:
        self.codec = codec
        self.state: list[Any] = []
        self.shape: tuple[int, ...] | None = None
        on_side = codec.own_stream and codec.where.type == "cuda"
        self.side = torch.cuda.Stream(codec.where) if on_side else None

    @abstractmethod
    def frames(self, latents: Tensor) -> Tensor:
        """The pixel frames that these latents (float32, on the codec's device) complete; updates ``state``."""

    def __call__(self, latents: Tensor) -> Tensor:
        return self.submit(latents)()

    def state_dict(self) -> State:
        return {"carried": copied(self.state), "shape": self.shape}

    def load_state_dict(self, state: State) -> None:
        self.state, self.shape = moved(state["carried"], self.codec.where), state["shape"]

    @torch.no_grad()
    def submit(self, latents: Tensor) -> Callable[[], Tensor]:
        """Starts on the next latents; what it returns gives their frames.

        With a CUDA stream of its own the work runs in parallel with what the caller queues before asking for frames;
        the caller's stream, as it is when asking, then waits for them.
        """
        self._check(latents)
        if self.side is None:
            done = self._decode(latents)
            return lambda: done
        return self._beside(latents, self.side)

    def _beside(self, latents: Tensor, side: torch.cuda.Stream) -> Callable[[], Tensor]:
        side.wait_stream(torch.cuda.current_stream(side.device))  # the latents, or the weights, may still be computed
        with torch.cuda.stream(side):
            frames = self._decode(latents)
            finished = side.record_event()
        if latents.device == side.device:
            latents.record_stream(side)  # the caller may drop them before the side stream has read them

        def collect() -> Tensor:
            caller = torch.cuda.current_stream(side.device)
            caller.wait_event(finished)
            frames.record_stream(caller)
            return frames

        return collect

    def _decode(self, latents: Tensor) -> Tensor:
        with self.codec.at_work():
            return self.frames(latents.to(self.codec.where, torch.float32))

    def _check(self, latents: Tensor) -> None:
        what, channels = type(self.codec).__name__, self.codec.latent_channels
        if latents.ndim != 5 or latents.shape[1] < 1 or latents.shape[2] != channels:
            raise UserError(
                f"{what}: latents are {list(latents.shape)}, expected [batch, frames, {channels}, rows, columns] "
                "with at least one frame; take the codec that belongs to the backbone."
            )
        shape = (*latents.shape[:1], *latents.shape[2:])
        if self.shape not in (None, shape):
            raise UserError(
                f"{what}: a block of shape {list(latents.shape)} came after blocks with "
                f"[batch, channels, rows, columns] {list(self.shape or ())}; start a new stream for another video."
            )
        self.shape = shape


def _device(name: str, what: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"{what}: device {name!r} cannot be used here ({reason}); expected auto, cpu, or a device of this machine "
            "such as cuda:0."
        ) from error
    return device
