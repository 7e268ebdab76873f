"""Decoding in a thread of its own, while the next block is generated."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from rollforge.state import tensors_of

Made = TypeVar("Made")


class DecodingThread:
    """Runs the decoding of one video, block by block, in a thread and on a CUDA stream of its own.

    What is submitted runs after what the caller has queued on its device until then, and not after what it queues
    later.

    Args:
        device: of the latents.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._thread = ThreadPoolExecutor(1, "rollforge-decoding")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last: Future[Any] | None = None

    def submit(self, decode: Callable[[Tensor], Made], latents: Tensor) -> Callable[[], Made]:
        """Starts on the latents of a block. What it returns waits for the result, and raises what decoding raised.

        ``decode`` ends with a copy to the CPU, so that nothing of it is under way when it returns. Raises what an
        earlier block has raised.
        """
        before = self._last
        if before is not None and before.done():
            before.result()
        ready = None if self._stream is None else torch.cuda.current_stream(self.device).record_event()
        self._last = future = self._thread.submit(in_this_mode(partial(self._run, decode, latents, ready, before)))
        return future.result

    def wait(self) -> None:
        """Returns when all blocks are decoded. Raises what one of them has raised."""
        if self._last is not None:
            self._last.result()

    def lend(self, state: Any) -> Any:
        """The state of a decode stream, once all blocks are decoded, for use on the caller's CUDA stream."""
        for tensor in tensors_of(state) if self._stream is not None else ():
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return state

    def _run(
        self,
        decode: Callable[[Tensor], Made],
        latents: Tensor,
        ready: torch.cuda.Event | None,
        before: Future[Any] | None,
    ) -> Made:
        if before is not None:
            before.result()  # it is done; where it failed, no later block can be decoded
        with ExitStack() as context:
            if self._stream is not None and ready is not None:
                context.enter_context(torch.cuda.stream(self._stream))
                self._stream.wait_event(ready)
                latents.record_stream(self._stream)
            return decode(latents)


def in_this_mode(function: Callable[[], Made]) -> Callable[[], Made]:
    """A function that runs in the gradient mode of the thread that calls this, as each thread has its own."""
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def run() -> Made:
        with ExitStack() as modes:
            if inference:
                modes.enter_context(torch.inference_mode())
            modes.enter_context(torch.set_grad_enabled(gradients))
            return function()

    return run
