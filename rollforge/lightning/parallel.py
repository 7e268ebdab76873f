"""Training over several processes: weights sharded with FSDP2, gathered again, and random numbers of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from rollforge.errors import UserError
from rollforge.prediction import is_sharded


def data_parallel(mesh: DeviceMesh) -> DeviceMesh:
    """The part of the strategy's mesh to shard over. Raises ``UserError`` where the mesh splits tensors too."""
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            "ModelParallelStrategy splits tensors unless told otherwise, which rollforge does not do; set "
            f"trainer.strategy.init_args.data_parallel_size to {mesh.size()} and tensor_parallel_size to 1."
        )
    return mesh["data_parallel"]


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shards every member of the network's module lists (its transformer blocks), then the rest of it. Once only."""
    if is_sharded(network):
        return
    for blocks in network.children():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights by name; of a sharded network gathered on rank 0, empty elsewhere, and every process must call it."""
    if not is_sharded(network):
        return dict(network.state_dict())
    gathered = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value for name, value in gathered.items() if isinstance(value, Tensor)}


def draw_apart(seed: int, batch: int, rank: int, network: nn.Module) -> None:
    """Seeds one training batch by its number and the process, so that no two processes train on the same noise.

    Processes that share a network must agree on how often it runs. That is drawn on the CPU, whose random numbers are
    therefore left the same; only the noise, drawn on the GPU, differs.
    """
    own = int(np.random.SeedSequence((seed, batch, rank)).generate_state(1)[0])
    if torch.cuda.is_available():
        torch.cuda.manual_seed(own)
    elif not is_sharded(network):
        torch.manual_seed(own)
