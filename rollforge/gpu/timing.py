"""Times of the phases of a block: by CUDA events, so that nothing waits inside the loop, or by the clock on a CPU."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rollforge.samplers.base import Job, Pass, Passes, Sampler


class Clock:
    """Adds up milliseconds by name."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.spans: list[tuple[str, Any, Any]] = []
        self.host: dict[str, float] = defaultdict(float)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Times what is queued, or done, in the block."""
        start = self._mark()
        yield
        self.spans.append((name, start, self._mark()))

    def add(self, name: str, seconds: float) -> None:
        """Adds time that the host alone took."""
        self.host[name] += seconds * 1e3

    def take(self) -> dict[str, float]:
        """Milliseconds by name since the last call. Waits for the device."""
        self.wait()
        sums, self.host = self.host, defaultdict(float)
        for name, start, end in self.spans:
            sums[name] += start.elapsed_time(end) if self.cuda else (end - start) * 1e3
        self.spans.clear()
        return dict(sums)

    def wait(self) -> None:
        """Waits until the device has done all that is queued."""
        if self.cuda:
            torch.cuda.synchronize()

    def milliseconds(self, function: Callable[[], Any], times: int = 10, warm: int = 3) -> float:
        """Of one call, on average."""
        for _ in range(warm):
            function()
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            function()
        self.wait()
        return (time.perf_counter() - began) * 1e3 / times

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class TimedSampler(Sampler):
    """A sampler whose passes are timed, by phase."""

    def __init__(self, sampler: Sampler, clock: Clock) -> None:
        self.sampler, self.clock = sampler, clock
        self.guidance_branches = sampler.guidance_branches

    def run(self, job: Job) -> Passes:
        passes = self.sampler.run(job)
        request = next(passes, None)
        while request is not None:
            if isinstance(request, Pass):
                with self.clock.span(request.step.phase.value):
                    reply = yield request
            else:
                reply = yield request
            request = _send(passes, reply)


def _send(passes: Passes, reply: Any) -> Any:
    try:
        return passes.send(reply)
    except StopIteration:
        return None
