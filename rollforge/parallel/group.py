"""The processes of one video, and what they exchange."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh

from rollforge.errors import UserError
from rollforge.parallel.division import Division, check_processes, divide
from rollforge.spec import ModelSpec

PATIENCE = timedelta(days=1)  # the first process may write a large snapshot while the others wait


@contextmanager
def all_there() -> Iterator[None]:
    """Around an exchange: raises ``UserError`` where it fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"An exchange with the other processes of the video failed ({' '.join(str(error).split())[:200]}): "
            "one of them has ended or cannot be reached; see what it said, and run the same command with --resume."
        ) from error


class ContextGroup:
    """The processes that make one video together. They run the same rollout: same plans, same noise, same results.

    The processes of a run are a device mesh of videos, key shares and head shares; processes of one video have
    successive ranks. Every process of the run must make its group at the same time.

    Args:
        spec: of the model that is divided.
        processes: of one video.
        device: type of the device of the network, such as ``cuda``.

    Raises:
        UserError: where the model or the processes of the run cannot be divided so.
    """

    def __init__(self, spec: ModelSpec, processes: int, device: str = "cpu") -> None:
        self.division: Division = divide(spec, processes)
        check_processes(run := distributed.get_world_size(), processes)
        shape = run // processes, self.division.keys, self.division.heads
        self.mesh = init_device_mesh(device, shape, mesh_dim_names=("videos", "keys", "heads"))
        self.heads: ProcessGroup = self.mesh.get_group("heads")
        self.keys: ProcessGroup = self.mesh.get_group("keys")
        self.control, _ = distributed.new_subgroups(processes, backend="gloo", timeout=PATIENCE)
        self.head_rank, self.key_rank = self.mesh.get_local_rank("heads"), self.mesh.get_local_rank("keys")
        self.rank = self.key_rank * self.division.heads + self.head_rank
        self.leads = self.rank == 0

    def highest(self, number: int) -> int:
        """The highest of the numbers of all processes, each of which must call this."""
        numbers = torch.tensor([int(number)])
        with all_there():
            distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=self.control)
        return int(numbers)

    def of_first(self, value: Any = None) -> Any:
        """The value that the first process passes; each process must call this."""
        values = [value]
        with all_there():
            distributed.broadcast_object_list(values, group=self.control, group_src=0)
        return values[0]

    # Tensors. What is divided among processes has their number first: ``[processes, ...]``.

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def gather(self, x: Tensor, group: ProcessGroup) -> Tensor:
        """``x`` of every process of a group, ``[processes, ...]``."""
        x, count = x.contiguous(), distributed.get_world_size(group)
        if count == 1:
            return x[None]
        gathered = x.new_empty(count, *x.shape)
        with all_there():
            distributed.all_gather([*gathered.unbind()], x, group=group)
        return gathered

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def exchange(self, x: Tensor, group: ProcessGroup) -> Tensor:
        """Sends ``x[n]`` to process n of a group; returns what each of them has sent, ``[processes, ...]``."""
        if len(x) == 1:
            return x
        received = torch.empty_like(x := x.contiguous())
        with all_there():
            distributed.all_to_all_single(received, x, group=group)
        return received

    def divide_tokens(self, x: Tensor, tokens: int) -> Tensor:
        """Of tokens ``[B, F * tokens, ...]`` the share of this process, ``[B, F * tokens / processes, ...]``."""
        size = tokens // self.division.processes
        return x.unflatten(1, (-1, tokens))[:, :, self.rank * size : (self.rank + 1) * size].flatten(1, 2)

    def gather_tokens(self, x: Tensor, tokens: int) -> Tensor:
        """The tokens of all processes: the inverse of ``divide_tokens``."""
        size = tokens // self.division.processes
        for group in (self.heads, self.keys):
            shares = self.gather(x, group).unflatten(2, (-1, size))  # [processes, B, F, size, ...]
            size *= len(shares)
            x = shares.movedim(0, 2).flatten(2, 3).flatten(1, 2)
        return x

    def heads_for_tokens(self, x: Tensor, tokens: int) -> Tensor:
        """All heads of the process's tokens to all tokens of the process's heads.

        ``[B, F * tokens / heads, H, D]`` to ``[B, F * tokens, H / heads, D]``, with the tokens of a key share.
        """
        count = self.division.heads
        own = x.unflatten(1, (-1, tokens // count)).unflatten(3, (count, -1))  # [B, F, t, processes, h, D]
        return self.exchange(own.movedim(3, 0), self.heads).movedim(0, 2).flatten(2, 3).flatten(1, 2)

    def tokens_for_heads(self, x: Tensor, tokens: int) -> Tensor:
        """The inverse of ``heads_for_tokens``."""
        count = self.division.heads
        own = x.unflatten(1, (-1, count, tokens // count))  # [B, F, processes, t, h, D]
        return self.exchange(own.movedim(2, 0), self.heads).movedim(0, 3).flatten(3, 4).flatten(1, 2)
