"""Distribution of requests and clips over the processes of a run.

Both samplers are a ``DistributedSampler`` so that Lightning leaves them alone; its own ones repeat requests to give
every process as many, and shuffle a training order again.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from rollforge.lightning.random_state import seeded
from rollforge.signals import HEARD

Place = tuple[int, int]
"""Of a clip: the epoch, and its number in the data set."""


class RankSampler(DistributedSampler[int]):
    """Every n-th request, each exactly once. With fewer requests than processes some get none."""

    def __init__(self, requests: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(requests), num_replicas, rank, shuffle=False)  # type: ignore[arg-type] # it has a length
        self.mine = range(rank, requests, num_replicas)

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)


class ResumableSampler(DistributedSampler[Place]):
    """A seeded shuffle for each epoch, which starts at the current batch: a resumed run gets the remaining clips.

    Yields the epoch and the number of the clip. The processes take their batches side by side, so that two with
    batches of 4 see what one would with batches of 8.

    Args:
        clips: how many there are.
        batch: clips in a batch of one process.
        position: the epoch, and the batches of it that are done; asked when an epoch begins.
        seed: of the shuffles.
        num_replicas: processes.
        rank: of this process.
        repeat: how often in a row each batch is given.
    """

    def __init__(
        self,
        clips: int,
        batch: int,
        position: Callable[[], tuple[int, int]],
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        repeat: int = 1,
    ) -> None:
        super().__init__(range(clips), num_replicas, rank)  # type: ignore[arg-type] # it has a length
        self.clips, self.batch, self.position, self.start = clips, batch, position, seed
        self.batches, self.repeat = clips // (batch * num_replicas), repeat

    def __len__(self) -> int:
        return self.batches * self.batch * self.repeat

    def __iter__(self) -> Iterator[Place]:
        epoch, done = self.position()
        order = np.random.default_rng((self.start, epoch)).permutation(self.clips)
        whole = order[: self.batches * self.batch * self.num_replicas]
        mine = whole.reshape(self.batches, self.num_replicas, self.batch)[:, self.rank].repeat(self.repeat, axis=0)
        return iter([(epoch, clip) for clip in mine[done:].ravel().tolist()])


class SeededClips(Dataset[Any]):
    """Clips whose random choices depend on the seed, the epoch and the number of the clip alone.

    A clip is therefore the same whichever worker process reads it, and after a resume. ``clips`` is asked with the
    generators of torch, NumPy and Python seeded; what it draws does not change the numbers that training draws.
    """

    def __init__(self, clips: Dataset[Any], seed: int) -> None:
        self.clips, self.seed = clips, seed

    def __len__(self) -> int:
        return len(self.clips)  # type: ignore[arg-type]

    def __getitem__(self, place: Place | int) -> Any:
        """The clip of an epoch and a number. A sampler of Lightning (``overfit_batches``) gives the number alone."""
        epoch, number = (0, place) if isinstance(place, int) else place
        with seeded(self.seed, epoch, number):
            return self.clips[number]


def ignore_signals(worker: int) -> None:
    """Lets a worker process of a loader continue until training, which also gets the signal, has saved and ends it."""
    for each in HEARD:
        signal.signal(each, signal.SIG_IGN)
