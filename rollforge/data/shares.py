"""Who works on what: requests and clips shared out over the processes of a run.

Both samplers are a ``DistributedSampler`` so that Lightning leaves them alone; its own ones repeat requests to give
every process as many, and shuffle a training order anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import DistributedSampler

from rollforge.data.pictures import is_picture
from rollforge.data.requests import Request


class Share(DistributedSampler[int]):
    """Every n-th request: none twice, none left out. Where there are fewer than processes, some get none."""

    def __init__(self, requests: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(requests), num_replicas, rank, shuffle=False)  # type: ignore[arg-type] # it has a length
        self.mine = range(rank, requests, num_replicas)

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)


def batches(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Requests to roll together, at most ``size`` at once, none of which changes the video of another.

    They have the same length, seed and times of prompts, and openings of the same length: all none, all pictures, or
    one and the same video.
    """
    alike: dict[object, list[Request]] = {}
    for request in requests:
        alike.setdefault((request.schedule, _opening(request.opening)), []).append(request)
    return [group[n : n + size] for group in alike.values() for n in range(0, len(group), size)]


def _opening(path: Path | None) -> str | None:
    """Equal for openings that are certain to have the same length."""
    return None if path is None else "picture" if is_picture(path) else str(path)


class Onwards(DistributedSampler[int]):
    """A seeded shuffle for each epoch, entered where the batches ``done`` end: a resumed run sees what it had not.

    The processes take their batches side by side, so that two with batches of 4 see what one would with batches of 8.
    """

    def __init__(
        self, clips: int, batch: int, done: Callable[[], int], seed: int, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(range(clips), num_replicas, rank)  # type: ignore[arg-type] # it has a length
        self.clips, self.batch, self.done, self.start = clips, batch, done, seed
        self.batches = clips // (batch * num_replicas)

    def __len__(self) -> int:
        return self.batches * self.batch

    def __iter__(self) -> Iterator[int]:
        epoch, skip = divmod(self.done(), self.batches)
        order = np.random.default_rng((self.start, epoch)).permutation(self.clips)
        whole = order[: self.batches * self.batch * self.num_replicas]
        return iter(whole.reshape(self.batches, self.num_replicas, self.batch)[skip:, self.rank].ravel().tolist())
