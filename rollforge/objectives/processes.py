"""What several processes of a training must agree on, and what each has of its own."""

from __future__ import annotations

from torch import Tensor, distributed


def are_several() -> bool:
    """Whether there is more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def of_first(drawn: Tensor) -> Tensor:
    """What the first process has drawn; to be called by all.

    How often a network runs must not differ between processes that share it: each pass gathers its weights from all.
    """
    if not are_several():
        return drawn
    value = drawn.cuda() if distributed.get_backend() == "nccl" else drawn
    distributed.broadcast(value, 0)
    return value.to(drawn.device)


def own_rows(rows: int) -> range:
    """Numbers of the videos of this process, so that no two processes have the same noise."""
    rank = distributed.get_rank() if are_several() else 0
    return range(rank * rows, (rank + 1) * rows)
